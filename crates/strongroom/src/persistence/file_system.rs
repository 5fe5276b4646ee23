//! What can be expected of the file system that a document lies on.

use std::fs::File;

/// How far a file system can be trusted about its files.
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code))]
pub(super) enum FileSystem {
    /// A disk or memory of this machine: an open file shows whatever happens to it.
    Native,
    /// Times come from this machine's clock, but an open file may be another one than the path names: overlays,
    /// and kinds that are not known here.
    Local,
    /// Another machine or a program gives the times, and may show them late.
    Remote,
}

impl FileSystem {
    /// What `file` lies on. In doubt the worse.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn of(file: &File) -> Self {
        // The type is a signed 32-bit number on some architectures.
        #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, clippy::unnecessary_cast)]
        rustix::fs::fstatfs(file).map_or(Self::Remote, |found| Self::of_type(found.f_type as u32))
    }

    /// Not known: the cautious answer.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn of(_file: &File) -> Self {
        Self::Remote
    }

    /// By the numbers of linux/magic.h and of the file systems' own headers.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn of_type(number: u32) -> Self {
        match number {
            // ext2 to ext4, XFS, Btrfs, F2FS, bcachefs, ZFS, tmpfs, ramfs.
            0xEF53 | 0x5846_5342 | 0x9123_683E | 0xF2F5_2010 | 0xCA45_1A4E | 0x2FC1_2FC1 | 0x0102_1994
            | 0x8584_58F6 => Self::Native,
            // NFS, SMB (old and new), CIFS, FUSE, 9P, Ceph, AFS (both), Coda, Lustre, GPFS, VirtualBox and VMware
            // shares.
            0x6969 | 0x517B | 0xFE53_4D42 | 0xFF53_4D42 | 0x6573_5546 | 0x0102_1997 | 0x00C3_6400
            | 0x5346_414F | 0x6B41_4653 | 0x7375_7245 | 0x0BD0_0BD0 | 0x4750_4653 | 0x786F_4256
            | 0xBACB_ACBC => Self::Remote,
            _ => Self::Local,
        }
    }
}
