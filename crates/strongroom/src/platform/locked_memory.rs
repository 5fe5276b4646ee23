//! Memory for keys: pages of their own that are not swapped out and not written into core dumps, as far as the
//! operating system lets us, and wiped before they are given back.

use std::fmt;
use std::ops::{Deref, DerefMut};

use zeroize::Zeroize as _;

/// Secret bytes in pages of their own.
pub(crate) struct LockedBytes(imp::Pages);

impl LockedBytes {
    /// `length` zero bytes.
    ///
    /// That the pages cannot be locked (the limit of locked memory is small in some containers) is no error: the
    /// bytes are no worse off than all others of the process.
    pub(crate) fn zeroed(length: usize) -> Self {
        Self(imp::Pages::new(length))
    }
}

impl Deref for LockedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for LockedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for LockedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedBytes([redacted])")
    }
}

#[cfg(unix)]
mod imp {
    use std::ffi::c_void;
    use std::ops::{Deref, DerefMut};
    use std::ptr::NonNull;

    use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};

    pub(super) enum Pages {
        Own {
            start: NonNull<c_void>,
            length: usize,
        },
        /// No pages to be had: the heap has to do.
        Heap(Box<[u8]>),
    }

    // SAFETY: the pages belong to this value alone, and it hands out references by the usual rules.
    unsafe impl Send for Pages {}
    // SAFETY: as above.
    unsafe impl Sync for Pages {}

    impl Pages {
        pub(super) fn new(length: usize) -> Self {
            let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
            // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing that is in use.
            let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, flags) };
            let Some(start) = mapped.ok().and_then(NonNull::new) else {
                return Self::Heap(vec![0; length].into_boxed_slice());
            };
            // SAFETY: the range is the mapping that was just made. Neither call changes what it holds.
            unsafe {
                let _ = mlock(start.as_ptr(), length);
                #[cfg(any(target_os = "linux", target_os = "android"))]
                let _ = rustix::mm::madvise(start.as_ptr(), length, rustix::mm::Advice::LinuxDontDump);
            }
            Self::Own { start, length }
        }
    }

    impl Deref for Pages {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            match self {
                // SAFETY: the mapping has this length, is readable, was zeroed by the kernel, and lives as long
                // as `self`.
                Self::Own { start, length } => unsafe {
                    std::slice::from_raw_parts(start.as_ptr().cast(), *length)
                },
                Self::Heap(bytes) => bytes,
            }
        }
    }

    impl DerefMut for Pages {
        fn deref_mut(&mut self) -> &mut [u8] {
            match self {
                // SAFETY: as above, writable, and `self` is borrowed exclusively.
                Self::Own { start, length } => unsafe {
                    std::slice::from_raw_parts_mut(start.as_ptr().cast(), *length)
                },
                Self::Heap(bytes) => bytes,
            }
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            if let Self::Own { start, length } = self {
                // SAFETY: the mapping is ours, and nothing refers to it any more. Unmapping unlocks it.
                let _ = unsafe { munmap(start.as_ptr(), *length) };
            }
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use std::ops::{Deref, DerefMut};

    pub(super) struct Pages(Box<[u8]>);

    impl Pages {
        pub(super) fn new(length: usize) -> Self {
            Self(vec![0; length].into_boxed_slice())
        }
    }

    impl Deref for Pages {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            &self.0
        }
    }

    impl DerefMut for Pages {
        fn deref_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_can_be_written_and_read_and_are_not_shown() {
        let mut bytes = LockedBytes::zeroed(32);
        assert_eq!(*bytes, [0; 32]);
        bytes.copy_from_slice(&[7; 32]);
        assert_eq!(*bytes, [7; 32]);
        assert_eq!(format!("{bytes:?}"), "LockedBytes([redacted])");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_pages_are_left_out_of_core_dumps() {
        let bytes = LockedBytes::zeroed(32);
        let address = bytes.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        // Neighbours of one kind are one mapping.
        let holds_ours = |line: &str| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            range.is_some_and(|(start, end)| {
                let number = |text| usize::from_str_radix(text, 16);
                matches!((number(start), number(end)), (Ok(start), Ok(end)) if (start..end).contains(&address))
            })
        };
        let mut of_ours = maps.lines().skip_while(|line| !holds_ours(line));
        let flags = of_ours.find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.contains(" dd"), "{flags}");
    }
}
