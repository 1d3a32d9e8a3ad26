#![cfg_attr(any(fuzzing, feature = "libfuzzer"), no_main)]
#![doc = "See `towpath_fuzz::frame`."]

towpath_fuzz::program!(towpath_fuzz::frame::run);
