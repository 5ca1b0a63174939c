#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sallyport_hostile::conversation::conversation(bytes));
