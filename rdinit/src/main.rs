//! The freestanding ELF around [`rdinit::init::run`]: entry point, panic handler, and the memory functions that the
//! compiler calls where a libc would have them. Compiled by rdvm's `build.rs`, not by cargo.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

// The kernel enters with argc, argv[0]… on the stack (System V ABI, AMD64 supplement, 3.4.1).
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, [rsp + 8]",
    "and rsp, -16",
    "call {enter}",
    "ud2",
    enter = sym enter,
);

extern "C" fn enter(name: *const u8) -> ! {
    let mut length = 0;
    // SAFETY: `name` is argv[0] as the kernel laid it out: a string that ends in NUL and stays for the life of the
    // process. A null pointer (argc of zero) does not happen: the kernel refuses to start a program without argv[0].
    // Volatile reads keep the loop from being compiled into a call of strlen.
    let name = unsafe {
        while name.add(length).read_volatile() != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(name, length + 1)
    };
    rdinit::init::run(name)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // PID 1 that ends makes the kernel panic, which resets the machine: the host sees an end without an exit event.
    rdinit::exit(125)
}

/// `memcpy(3)`.
///
/// # Safety
/// As in C: both ranges are valid and do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise. Written in assembly since a loop would be compiled into a call of memcpy.
    unsafe { asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack)) };
    to
}

/// `memmove(3)`.
///
/// # Safety
/// As in C: both ranges are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= length {
        // SAFETY: the caller's promise; going upwards never overwrites a byte that is still to be read.
        return unsafe { memcpy(to, from, length) };
    }
    // SAFETY: the caller's promise; `to` lies inside the source, so copying goes downwards. The direction flag is
    // cleared again, as the ABI wants it.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") length => _, inout("rdi") to.add(length).sub(1) => _,
             inout("rsi") from.add(length).sub(1) => _, options(nostack));
    }
    to
}

/// `memset(3)`.
///
/// # Safety
/// As in C: the range is valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") byte as u8, options(nostack)) };
    to
}

/// `memcmp(3)`.
///
/// # Safety
/// As in C: both ranges are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    for at in 0..length {
        // SAFETY: the caller's promise. Volatile reads keep the loop from being compiled into a call of memcmp.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// `bcmp(3)`.
///
/// # Safety
/// As in C: both ranges are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, length) }
}
