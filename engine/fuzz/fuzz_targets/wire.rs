#![cfg_attr(any(fuzzing, feature = "libfuzzer"), no_main)]
#![doc = "See `towpath_fuzz::wire`."]

towpath_fuzz::program!(towpath_fuzz::wire::run);
