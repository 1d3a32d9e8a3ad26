#![cfg_attr(any(fuzzing, feature = "libfuzzer"), no_main)]
#![doc = "See `towpath_fuzz::dns`."]

towpath_fuzz::program!(towpath_fuzz::dns::run);
