#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sallyport_hostile::service_account::service_account_jwt(bytes));
