"""One line per public class: every check in test_cases.py runs on each of them.

A layer's case is (constructor arguments, input shape without the batch); a list of shapes means
several inputs. Several cases per class where its geometry or modes differ.
"""

from minicnn import layers

LAYERS = {
    layers.Activation: [
        (("relu",), (5, 4, 3)),
        (("softmax",), (4, 6)),
        (("gelu",), (7,)),
        (("silu",), (7,)),
        (("mish",), (7,)),
        (("log_softmax",), (2, 5)),
    ],
    layers.Add: [((), [(4, 5, 3)] * 3)],
    layers.AveragePooling2D: [
        ((2,), (6, 7, 3)),
        (dict(pool_size=(3, 2), strides=(2, 1), padding="same"), (7, 5, 2)),
        (dict(pool_size=3, strides=1), (5, 6, 17)),
    ],
    layers.BatchNormalization: [
        ((), (4, 5, 3)),
        (dict(center=False, momentum=0.9), (6,)),
        (dict(scale=False, epsilon=1e-5), (3, 4, 5)),
        (dict(axis=1, gamma_regularizer="l2"), (3, 4, 5)),
    ],
    layers.Concatenate: [((), [(4, 5, 3), (4, 5, 2)]), (dict(axis=1), [(2, 3), (5, 3)])],
    layers.Conv2D: [
        ((4, 3), (6, 7, 3)),
        (dict(filters=5, kernel_size=3, padding="same", activation="relu"), (7, 5, 16)),
        (dict(filters=16, kernel_size=3, padding="same", activation="elu"), (9, 11, 17)),
        (dict(filters=4, kernel_size=(5, 2), strides=(2, 3), activation="tanh"), (11, 8, 2)),
        (dict(filters=3, kernel_size=3, dilation_rate=2, padding="same"), (9, 8, 2)),
        (dict(filters=6, kernel_size=3, groups=3, padding="same", activation="gelu"), (5, 6, 6)),
        (dict(filters=8, kernel_size=1, use_bias=False, kernel_regularizer="l2"), (5, 4, 20)),
        (dict(filters=2, kernel_size=7, strides=2, padding="same", activation="softmax"), (8, 9, 1)),
        (dict(filters=8, kernel_size=3, groups=8), (6, 6, 8)),
        (
            dict(filters=3, kernel_size=2, activity_regularizer="l1", bias_regularizer="l1_l2"),
            (4, 4, 3),
        ),
    ],
    layers.Dense: [
        ((7,), (5,)),
        (dict(units=3, activation="softmax"), (6,)),
        (dict(units=18, activation="sigmoid", kernel_regularizer="l1_l2"), (33,)),
        (dict(units=2, use_bias=False, kernel_constraint="max_norm"), (3, 4)),
    ],
    layers.Dropout: [
        ((0.4,), (6, 5)),
        (dict(rate=0.3, noise_shape=(None, 1, 1, None), seed=3), (4, 5, 6)),
    ],
    layers.Flatten: [((), (3, 4, 2))],
    layers.GlobalAveragePooling2D: [((), (5, 4, 3)), (dict(keepdims=True), (3, 3, 18))],
    layers.GlobalMaxPooling2D: [((), (5, 4, 3)), (dict(keepdims=True), (3, 3, 18))],
    layers.LeakyReLU: [((), (5, 4)), ((0.1,), (3, 4, 5))],
    layers.MaxPooling2D: [
        ((), (6, 8, 3)),
        (dict(pool_size=3, strides=2, padding="same"), (7, 5, 17)),
        (dict(pool_size=(2, 3), strides=1), (5, 6, 2)),
    ],
    layers.ReLU: [
        ((), (5, 4, 3)),
        (dict(max_value=1.0, negative_slope=0.2, threshold=0.1), (40,)),
        (dict(negative_slope=0.2), (40,)),
    ],
    layers.Rescaling: [((1 / 255,), (4, 4, 3)), (dict(scale=[1.0, 2.0], offset=[0.5, -1]), (3, 2))],
    layers.Reshape: [(((6, -1),), (3, 4, 2))],
    layers.Softmax: [((), (4, 5)), (dict(axis=1), (4, 5))],
    layers.SpatialDropout2D: [((0.5,), (4, 4, 6))],
    layers.UpSampling2D: [
        ((), (3, 4, 2)),
        (dict(size=(2, 3), interpolation="bilinear"), (4, 3, 17)),
    ],
    layers.ZeroPadding2D: [((), (3, 4, 2)), ((((0, 2), (1, 3)),), (4, 3, 5))],
}

# Not built and called like the others: they have tests of their own.
LAYERS_ELSEWHERE = {"Layer", "InputLayer"}
