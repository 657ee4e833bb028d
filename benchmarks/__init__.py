"""Speed and memory beside other libraries, in one interleaved run, after results were compared."""
