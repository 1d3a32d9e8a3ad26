#![cfg_attr(any(fuzzing, feature = "libfuzzer"), no_main)]
#![doc = "See `towpath_fuzz::fragments`."]

towpath_fuzz::program!(towpath_fuzz::fragments::run);
