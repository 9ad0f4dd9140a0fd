# CRC32C, the checksum of zarr's crc32c codec and of shard indexes. Pure: bytes in, a number out.

cdef unsigned int crc32c(const char* data, size_t size) noexcept nogil
