pub fn crc32(_: &[u8]) -> u32 {
    0
}
