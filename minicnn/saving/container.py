"""The .keras container: a zip archive of three stored members, read within strict bounds.

    metadata.json      who wrote it, and the sha256 of the other two
    config.json        the model's architecture and how it was compiled
    model.weights.h5   the numbers

The reader accepts what Keras writes and nothing more: exactly these members, uncompressed, whose
headers, data, directory and end record fill the file without gap or overlap. In our own files every
header byte follows from names, sizes and checksums, so that no bit can change unseen: members are
covered by CRC-32 and sha256, headers are compared with what we would have written.
"""

import hashlib
import struct
import zlib

from minicnn.errors import FormatError, IntegrityError
from minicnn.saving import bounded_json, disk

METADATA, CONFIG, WEIGHTS = "metadata.json", "config.json", "model.weights.h5"
MEMBERS = (METADATA, CONFIG, WEIGHTS)

FORMAT = 1  # of our own files; raised when an older reader would misread them
LARGEST = {METADATA: 1 << 20, CONFIG: 1 << 24}  # ResNet-152's config has 0.6 MB
ZIP_LIMIT = 0xFFFFFFFF  # sizes are 32-bit; beyond is zip64, which we neither write nor read

# Zip's records after their signatures (APPNOTE.TXT 4.3.7, 4.3.12, 4.3.16).
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCAL_SIGNATURE, _CENTRAL_SIGNATURE, _END_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"

# As Python's zipfile writes them: version 2.0, Unix, -rw-------, 1 January 1980.
_VERSION, _MADE_BY, _ATTRIBUTES, _TIME, _DATE = 20, 0x0314, 0o600 << 16, 0, 0x21
_DIRECTORY_LIMIT = 1 << 16


def _local_header(name, crc, size):
    name = name.encode()
    fixed = (_LOCAL_SIGNATURE, _VERSION, 0, 0, _TIME, _DATE, crc, size, size)
    return _LOCAL.pack(*fixed, len(name), 0) + name


def _central_header(name, crc, size, offset):
    name = name.encode()
    fixed = (_CENTRAL_SIGNATURE, _MADE_BY, _VERSION, 0, 0, _TIME, _DATE, crc, size, size)
    return _CENTRAL.pack(*fixed, len(name), 0, 0, 0, 0, _ATTRIBUTES, offset) + name


def pack(config, weights, versions):
    """The container's bytes, as a list of parts. `versions`: entries of metadata.json."""
    metadata = bounded_json.dumps(
        {
            **versions,
            "minicnn_format": FORMAT,
            "sha256": {
                CONFIG: hashlib.sha256(config).hexdigest(),
                WEIGHTS: hashlib.sha256(weights).hexdigest(),
            },
        }
    )
    parts, directory, offset = [], [], 0
    for name, data in zip(MEMBERS, (metadata, config, weights), strict=True):
        if len(data) > LARGEST.get(name, ZIP_LIMIT):
            raise ValueError(
                f"{name} would have {len(data)} bytes, more than {LARGEST.get(name, ZIP_LIMIT)}"
            )
        crc = zlib.crc32(data)
        header = _local_header(name, crc, len(data))
        directory.append(_central_header(name, crc, len(data), offset))
        parts += [header, data]
        offset += len(header) + len(data)
    directory = b"".join(directory)
    if offset + len(directory) > ZIP_LIMIT:
        raise ValueError(f"the model has {offset} bytes, a .keras file holds 4 GiB; save_weights")
    count = len(MEMBERS)
    end = _END.pack(_END_SIGNATURE, 0, 0, count, count, len(directory), offset, 0)
    return [*parts, directory, end]


class Container:
    """A .keras file: `metadata`, `config` (parsed), `weights` (bytes), `own`: minicnn wrote it."""

    def __init__(self, path):
        self.path = path
        file, size = disk.open_regular(path)
        with file:
            entries, directory = self._entries(file, size)
            self._check_members(entries)
            members = {entry.name: self._data(file, entry) for entry in entries}
        self.metadata = self._json(members.pop(METADATA), METADATA)
        self.own = "minicnn_format" in self.metadata
        if self.own:
            self._check_own(self.metadata, members, entries, directory)
        self.weights = members.pop(WEIGHTS)
        self.config = self._json(members.pop(CONFIG), CONFIG)

    def _fail(self, offset, message, error=IntegrityError):
        raise error(f"{self.path}: byte {offset}: {message}")

    # -- structure --------------------------------------------------------------------------------

    def _entries(self, file, size):
        """The directory's entries, checked to fill the file together with it; its raw bytes."""
        count, directory_at, directory_size = self._end_record(file, size)
        directory = disk.read_exactly(file, directory_at, directory_size, self.path)
        entries, at, offset = [], 0, 0
        for _ in range(count):
            if len(directory) - at < _CENTRAL.size:
                self._fail(directory_at + at, "the directory ends within an entry")
            entry = _Entry(directory, at)
            if entry.signature != _CENTRAL_SIGNATURE:
                self._fail(directory_at + at, f"expected an entry, got {entry.signature!r}")
            if entry.offset != offset:
                self._fail(
                    directory_at + at,
                    f"{entry.name!r} begins at {entry.offset}, expected {offset}: members overlap "
                    "or leave a gap",
                )
            if entry.data_end > directory_at:
                self._fail(directory_at + at, f"{entry.name!r} reaches into the directory")
            entry.header = disk.read_exactly(file, offset, entry.header_size, self.path)
            if not entry.agrees():
                self._fail(offset, f"the header of {entry.name!r} differs from its directory entry")
            entries.append(entry)
            at, offset = at + entry.size_here, entry.data_end
        if at != len(directory) or offset != directory_at:
            self._fail(offset, "the members do not fill the file up to the directory")
        return entries, directory

    def _end_record(self, file, size):
        """Number of members, where the directory is and how long, from the last 22 bytes."""
        end_at = max(size - _END.size, 0)
        end = disk.read_exactly(file, end_at, min(size, _END.size), self.path)
        if len(end) < _END.size:
            self._no_end(file, size)
        signature, disk_number, first_disk, here, total, length, at, comment = _END.unpack(end)
        fits = at + length == end_at
        if signature != _END_SIGNATURE:
            if not fits:
                self._no_end(file, size)
            self._fail(end_at, f"expected zip's end record, got {signature!r}")
        if ZIP_LIMIT in (length, at):
            self._fail(end_at, "a zip64 archive (2 GiB and more) is not read", FormatError)
        if not fits or length > _DIRECTORY_LIMIT:
            self._fail(
                end_at,
                f"the directory of {length} bytes at {at} does not end where the end record begins:"
                " damaged, or bytes were put before or after the archive",
            )
        if disk_number or first_disk or comment or here != total:
            self._fail(end_at, "expected an archive of one part without a comment")
        return total, at, length

    def _no_end(self, file, size):
        head = disk.read_exactly(file, 0, min(size, 512), self.path)
        if head.startswith(_LOCAL_SIGNATURE):
            self._fail(
                size,
                "the file ends without zip's end record: it is cut off, or bytes were appended",
                FormatError,
            )
        raise FormatError(f"{self.path} is {disk.describe(head)}, not a .keras file")

    # -- members ----------------------------------------------------------------------------------

    def _check_members(self, entries):
        """The three members, each once, stored, of a bounded size."""
        names = [entry.name for entry in entries]
        for entry in entries:
            if entry.name not in MEMBERS:
                self._fail(
                    entry.offset,
                    f"unknown member {entry.name[:80]!r}, expected {', '.join(MEMBERS)}",
                    FormatError,
                )
            if names.count(entry.name) > 1:
                self._fail(entry.offset, f"the member {entry.name} comes twice", FormatError)
            if entry.method or entry.packed != entry.size:
                self._fail(entry.offset, f"{entry.name} is compressed, not stored", FormatError)
            if entry.flags or entry.version > _VERSION or entry.appendix:
                self._fail(entry.offset, f"{entry.name} is stored in a way not known", FormatError)
            limit = LARGEST.get(entry.name, ZIP_LIMIT)
            if entry.size > limit:
                self._fail(
                    entry.offset,
                    f"{entry.name} has {entry.size} bytes, at most {limit} are read",
                    FormatError,
                )
        missing = [name for name in MEMBERS if name not in names]
        if missing:
            raise FormatError(
                f"{self.path} is a zip archive without {', '.join(missing)}: not a .keras file"
            )

    def _data(self, file, entry):
        data = disk.read_exactly(file, entry.offset + entry.header_size, entry.size, self.path)
        if zlib.crc32(data) != entry.crc:
            self._fail(
                entry.offset + entry.header_size,
                f"{entry.name} is damaged: CRC-32 {zlib.crc32(data):08x}, expected {entry.crc:08x}",
            )
        return data

    def _check_own(self, metadata, members, entries, directory):
        """What another program may choose is fixed in our files; the digests must agree."""
        found = metadata["minicnn_format"]
        if type(found) is not int or found < 1:
            raise FormatError(f"{self.path}: {METADATA}: minicnn_format is {found!r}, expected 1")
        if found > FORMAT:
            raise FormatError(
                f"{self.path} was written by minicnn {metadata.get('minicnn_version')} in format "
                f"{found}, this version reads up to {FORMAT}: install a newer minicnn"
            )
        wanted = b"".join(_central_header(e.name, e.crc, e.size, e.offset) for e in entries)
        if directory != wanted or tuple(entry.name for entry in entries) != MEMBERS:
            raise IntegrityError(f"{self.path}: the archive's headers are not those written")
        digests = metadata.get("sha256")
        for name, data in members.items():
            wanted = digests.get(name) if isinstance(digests, dict) else None
            got = hashlib.sha256(data).hexdigest()
            if got != wanted:
                raise IntegrityError(
                    f"{self.path}: {name} is damaged: sha256 {got}, expected {wanted}"
                )

    def _json(self, data, name):
        value = bounded_json.loads(data, f"{self.path}: {name}")
        if not isinstance(value, dict):
            raise FormatError(f"{self.path}: {name}: expected a JSON object")
        return value


class _Entry:
    """A directory entry, at `at` of the directory's bytes."""

    def __init__(self, directory, at):
        fields = _CENTRAL.unpack_from(directory, at)
        self.shared = fields[2:10]  # what the local header repeats
        self.signature, self.version, self.flags, self.method = fields[0], *fields[2:5]
        self.crc, self.packed, self.size = fields[7:10]
        name_size, extra, comment = fields[10:13]
        self.offset = fields[16]
        self.appendix = extra + comment  # bytes that Keras does not write
        self.size_here = _CENTRAL.size + name_size + self.appendix
        self.raw_name = directory[at + _CENTRAL.size :][:name_size]
        self.name = self.raw_name.decode("latin-1")
        self.header_size = _LOCAL.size + name_size
        self.data_end = self.offset + self.header_size + self.packed
        self.header = b""

    def agrees(self):
        """Whether the local header says the same, and has no extra field."""
        fields = _LOCAL.unpack_from(self.header)
        lengths = (len(self.raw_name), 0)
        named = self.header[_LOCAL.size :] == self.raw_name
        return fields == (_LOCAL_SIGNATURE, *self.shared, *lengths) and named
