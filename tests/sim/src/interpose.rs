//! The clock and the chance of libraries that do not ask for them: `getrandom`, `getentropy` and `clock_gettime` of libc.
//!
//! The `iceberg` crate stamps metadata with the wall clock, `HashMap` orders by random keys, `uuid` draws from the system. The
//! linker takes these definitions before libc's. On a thread that was [`arm`]ed they answer from a seed and from tokio's paused
//! clock; on every other thread they make the real system call.
//!
//! This is the only file of the repository with `unsafe` code.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};

use tokio::runtime::Handle;
use tokio::time::Instant;

/// Where virtual time begins: 2026-06-01T00:00:00Z, in seconds since the epoch.
pub const EPOCH_S: i64 = 1_780_272_000;
/// What the monotonic clock shows then.
const MONOTONIC_S: i64 = 1_000;

thread_local! {
    static CHANCE: Cell<Option<u64>> = const { Cell::new(None) };
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread draws from `seed`.
pub fn arm(seed: u64) {
    CHANCE.set(Some(seed));
}

/// From now on this thread's clocks are tokio's, which is to be paused.
pub fn start_clock() {
    START.set(Some(Instant::now()));
}

/// Gives this thread the machine's clock and chance back.
pub fn disarm() {
    START.set(None);
    CHANCE.set(None);
}

/// splitmix64
fn draw(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, z ^ (z >> 31))
}

/// Fills `bytes` from the thread's seed; says whether it has one.
///
/// # Safety
/// `bytes` points to `length` writable bytes.
unsafe fn fill(bytes: *mut c_void, length: usize) -> bool {
    let Some(mut state) = CHANCE.get() else { return false };
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts_mut(bytes.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let (next, word) = draw(state);
        state = next;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    CHANCE.set(Some(state));
    true
}

/// libc's `getrandom`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(bytes: *mut c_void, length: usize, flags: c_uint) -> isize {
    // SAFETY: the caller's promise is that of libc's function.
    unsafe {
        if fill(bytes, length) {
            return length.cast_signed();
        }
        libc::syscall(libc::SYS_getrandom, bytes, length, flags) as isize
    }
}

/// libc's `getentropy`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(bytes: *mut c_void, length: usize) -> c_int {
    // SAFETY: as above.
    unsafe { if getrandom(bytes, length, 0) == length.cast_signed() { 0 } else { -1 } }
}

/// libc's `clock_gettime`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let Some(elapsed) = elapsed() else {
        // SAFETY: the caller's promise is that of libc's function.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int };
    };
    let base = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => EPOCH_S,
        _ => MONOTONIC_S,
    };
    // SAFETY: `time` is writable, as for libc's function.
    unsafe {
        (*time).tv_sec = base + elapsed.as_secs().cast_signed();
        (*time).tv_nsec = i64::from(elapsed.subsec_nanos());
    }
    0
}

/// Virtual time since the start; none on a thread without, and none while tokio is asked for it.
fn elapsed() -> Option<std::time::Duration> {
    let start = START.get()?;
    if ASKING.get() || Handle::try_current().is_err() {
        return None;
    }
    ASKING.set(true);
    let elapsed = Instant::now().duration_since(start);
    ASKING.set(false);
    Some(elapsed)
}
