#![cfg_attr(any(fuzzing, feature = "libfuzzer"), no_main)]
#![doc = "See `towpath_fuzz::core`."]

towpath_fuzz::program!(towpath_fuzz::core::run);
