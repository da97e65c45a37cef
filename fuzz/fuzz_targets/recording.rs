#![no_main]

// A decoder's own mistake is caught where it is called; the fuzzer's hook would end the process at the first sign of it.
libfuzzer_sys::fuzz_target!(init: drop(std::panic::take_hook()), |data: &[u8]| viva_fuzz::entries::recording(data));
