#![cfg_attr(any(fuzzing, feature = "libfuzzer"), no_main)]
#![doc = "See `towpath_fuzz::dhcp`."]

towpath_fuzz::program!(towpath_fuzz::dhcp::run);
