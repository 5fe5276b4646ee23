//! Memory for a large document.

/// An empty buffer with room for `capacity` bytes, on large pages where the system has them.
///
/// A process that has just started has no memory yet: to be given 21 MB page by page takes it longer than to read
/// as much from a file.
pub(crate) fn reserve(capacity: usize) -> Vec<u8> {
    let buffer = Vec::with_capacity(capacity);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    advise(&buffer);
    buffer
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn advise(buffer: &Vec<u8>) {
    /// The size of a large page on most processors. Where it is another one, less is gained.
    const LARGE: usize = 2 * 1024 * 1024;

    let start = buffer.as_ptr().addr().next_multiple_of(LARGE);
    let end = (buffer.as_ptr().addr() + buffer.capacity()) / LARGE * LARGE;
    if start < end {
        let start = buffer.as_ptr().with_addr(start).cast_mut();
        // SAFETY: the range lies within the buffer, and the advice changes nothing of what is in it. That it is not
        // followed, or the kernel does not know it, costs time only.
        unsafe { libc::madvise(start.cast(), end - start.addr(), libc::MADV_HUGEPAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_of_any_size_can_be_filled() {
        for size in [0, 1, 4096, (2 << 20) - 1, (4 << 20) + 1, 21_000_000] {
            let mut buffer = reserve(size);
            let before = buffer.as_ptr();
            buffer.resize(size, 7);
            assert!(buffer.as_ptr() == before && buffer.iter().all(|byte| *byte == 7));
        }
    }
}
