//! Zeroed memory on cache-line boundaries whose allocation can fail.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;

use memmap2::MmapMut;

use crate::tensor::Backing;

/// A cache line, also the widest vector.
pub const ALIGN: usize = 64;
/// The usual huge page.
const HUGE_PAGE: usize = 2 << 20;
/// A few of them: less is not worth a map of its own. In tests some small pages.
const HUGE: usize = if cfg!(test) { 1 << 16 } else { 2 * HUGE_PAGE };

/// Owned zeroed bytes on a 64-byte boundary.
pub struct AlignedBuf {
    memory: Memory,
    len: usize,
}

/// Where the bytes are, and what gives them back.
enum Memory {
    Heap(NonNull<u8>, Layout),
    /// From a byte of the map on.
    Map(MmapMut, usize),
}

// SAFETY: the buffer owns its memory like a `Box<[u8]>`.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared references give shared access to bytes only.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zeroed bytes, or `None` if the system will not give them.
    pub fn zeroed(len: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len.max(1), ALIGN).ok()?;
        // SAFETY: the size of the layout is not zero.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(AlignedBuf { memory: Memory::Heap(ptr, layout), len })
    }

    /// The same on huge pages where the system has them and they are worth it. Whole ones are committed when a byte of them
    /// is written.
    pub fn huge(len: usize) -> Option<Self> {
        if len < HUGE {
            return AlignedBuf::zeroed(len);
        }
        // Huge pages begin on their multiples, maps wherever there is room.
        let map = MmapMut::map_anon(len.checked_add(HUGE_PAGE)?).ok()?;
        #[cfg(target_os = "linux")]
        if let Err(e) = map.advise(memmap2::Advice::HugePage) {
            log::debug!("no huge pages: {e}");
        }
        let first = map.as_ptr().addr();
        let at = first.next_multiple_of(HUGE_PAGE) - first;
        Some(AlignedBuf { memory: Memory::Map(map, at), len })
    }

    /// Gives the memory back until it is written again, where the system can; what was in it is lost.
    pub fn discard(&mut self) {
        #[cfg(target_os = "linux")]
        if let Memory::Map(map, _) = &self.memory {
            // SAFETY: of an anonymous map that nobody else refers to this makes zeros, which are as good bytes as any.
            let given = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            if let Err(e) = given {
                log::debug!("memory is kept: {e}");
            }
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` initialized bytes live there as long as `self` does.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len) }
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        match &self.memory {
            Memory::Heap(ptr, _) => ptr.as_ptr(),
            Memory::Map(map, at) => map.as_ptr().cast_mut().wrapping_add(*at),
        }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Backing for AlignedBuf {
    fn lock(&self) -> io::Result<()> {
        match &self.memory {
            #[cfg(unix)]
            Memory::Map(map, _) => map.lock(),
            // Some megabytes at most, on pages shared with others.
            _ => Ok(()),
        }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Memory::Heap(ptr, layout) = self.memory {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(ptr.as_ptr(), layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_aligned_ones_own_and_zero_at_first_on_the_heap_and_in_maps() {
        for len in [0, 1, HUGE - 1, HUGE, HUGE + 1] {
            for (make, in_map) in [(AlignedBuf::zeroed as fn(_) -> _, false), (AlignedBuf::huge, len >= HUGE)]
            {
                let mut buf: AlignedBuf = make(len).unwrap();
                let align = if in_map { HUGE_PAGE } else { ALIGN };
                assert_eq!((buf.as_slice().len(), buf.as_ptr() as usize % align), (len, 0));
                assert!(buf.as_slice().iter().all(|b| *b == 0));
                buf.as_mut_slice().fill(7);
                assert!(make(len).unwrap().as_slice().iter().all(|b| *b == 0));
                assert!(buf.as_slice().iter().all(|b| *b == 7));
                buf.discard();
                let rest = buf.as_slice().first().copied().unwrap_or(0);
                assert!(buf.as_slice().iter().all(|b| *b == rest) && [0, 7].contains(&rest));
                assert!(rest == 0 || !(in_map && cfg!(target_os = "linux")), "given back");
                buf.as_mut_slice().fill(8);
                assert!(buf.as_slice().iter().all(|b| *b == 8));
            }
        }
        assert!(AlignedBuf::zeroed(usize::MAX).is_none() && AlignedBuf::huge(usize::MAX).is_none());
    }
}
