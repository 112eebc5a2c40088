//! Memory that a process that sleeps can do without: a supervisor has the pages of its program from the start of a container,
//! two thirds of which it never looks at again.

use std::ptr;

use rustix::mm::{Advice, madvise};

/// The program headers of this program's class, elf(5).
#[cfg(target_pointer_width = "64")]
type Header = libc::Elf64_Phdr;
#[cfg(target_pointer_width = "32")]
type Header = libc::Elf32_Phdr;

/// More than a linker makes that are never written: the data before the code, the code, the data after it.
const SEGMENTS: usize = 4;

/// Gives back what malloc(3) keeps for later.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives free memory of the allocator's back, which nobody refers to.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives the pages of the program's file back. Those that are looked at from here on come again, with their neighbours, so that
/// this is for just before a sleep.
pub(crate) fn forget_program() {
    // All that needs code of its own comes before, and nothing is allocated, which would have to be freed: each page that is looked
    // at afterwards brings fifteen neighbours.
    let mut ranges = [(0, 0); SEGMENTS];
    for (range, found) in ranges.iter_mut().zip(read_only(program_headers())) {
        *range = found;
    }
    for (start, length) in ranges.into_iter().filter(|(_, length)| *length > 0) {
        // SAFETY: whole pages of private mappings of a file that were never writable, so that none differs from the file;
        // after MADV_DONTNEED (madvise(2)) the next look at one reads it from there. Fails where nothing is mapped.
        let _ = unsafe {
            madvise(
                ptr::without_provenance_mut(start),
                length,
                Advice::LinuxDontNeed,
            )
        };
    }
}

/// Of this program, as the kernel has loaded it.
fn program_headers() -> &'static [Header] {
    // SAFETY: getauxval(3) only looks; 0 where there is no answer.
    let address = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
    // SAFETY: the same.
    let count = unsafe { libc::getauxval(libc::AT_PHNUM) } as usize;
    if address == 0 {
        return &[];
    }
    // SAFETY: the kernel says where the headers are and how many. They are in a segment that is never written and stays for as
    // long as the process lives.
    unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(address), count) }
}

/// Address and length of the whole pages in segments that are loaded and never written. What is made read-only after the
/// addresses in it were filled in (RELRO) is in one that is written.
fn read_only(headers: &[Header]) -> impl Iterator<Item = (usize, usize)> {
    let page = rustix::param::page_size();
    let own = headers.iter().find(|header| header.p_type == libc::PT_PHDR);
    // How far from where it was linked the program is loaded.
    let moved = own.map(|own| headers.as_ptr().addr().wrapping_sub(own.p_vaddr as usize));
    let loaded = move |header: &&Header| {
        header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 && moved.is_some()
    };
    headers.iter().filter(loaded).filter_map(move |header| {
        let start = moved?.wrapping_add(header.p_vaddr as usize);
        let end = start.checked_add(header.p_filesz as usize)? / page * page;
        let start = start.next_multiple_of(page);
        (end > start).then(|| (start, end - start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_there_when_it_is_needed() {
        let ranges: Vec<_> = read_only(program_headers()).collect();
        let own = what_is_given_back_is_there_when_it_is_needed as *const () as usize;
        let is_in = |address: usize| {
            let within = |range: &&(usize, usize)| (range.0..range.0 + range.1).contains(&address);
            ranges.iter().any(|range| within(&range))
        };
        static CHANGING: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(7);
        assert!(is_in(own), "{ranges:x?}");
        assert!(!is_in(ptr::from_ref(&CHANGING).addr()));
        let kept = vec![String::from("kept"); 3];
        CHANGING.store(8, std::sync::atomic::Ordering::Relaxed);
        trim();
        forget_program();
        assert_eq!(kept.concat(), "keptkeptkept");
        assert_eq!(CHANGING.load(std::sync::atomic::Ordering::Relaxed), 8);
    }
}
