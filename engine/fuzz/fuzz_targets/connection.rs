#![cfg_attr(any(fuzzing, feature = "libfuzzer"), no_main)]
#![doc = "See `towpath_fuzz::connection`."]

towpath_fuzz::program!(towpath_fuzz::connection::run);
