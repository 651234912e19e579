// A known call tree: main calls work(), which calls heavy() and light(). Argument: seconds.
use std::hint::black_box;
use std::time::{Duration, Instant};

#[inline(never)]
fn spin(thousands: u64) -> u64 {
    let mut sum = 0u64;
    for i in 0..thousands * 1000 {
        sum = black_box(sum.wrapping_add(i));
    }
    sum
}

#[inline(never)]
fn heavy() -> u64 {
    black_box(spin(6000)) + 1
}

#[inline(never)]
fn light() -> u64 {
    black_box(spin(3000)) + 1
}

#[inline(never)]
fn work(end: Instant) -> u64 {
    let mut sum = 0u64;
    while Instant::now() < end {
        sum = sum.wrapping_add(heavy()).wrapping_add(light());
    }
    sum
}

fn main() {
    let seconds: f64 = std::env::args().last().unwrap().parse().unwrap();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    black_box(work(end));
}
