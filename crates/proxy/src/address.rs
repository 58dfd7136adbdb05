//! Which addresses are public, as the registries of special addresses have it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// A block of IPv4 addresses: its first one, the length of its prefix, its name.
const V4: &[([u8; 4], u32, &str)] = &[
    ([169, 254, 169, 254], 32, "a metadata address"),
    ([168, 63, 129, 16], 32, "a metadata address"),
    ([100, 100, 100, 200], 32, "a metadata address"),
    ([0, 0, 0, 0], 8, "unspecified"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([10, 0, 0, 0], 8, "private"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 168, 0, 0], 16, "private"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([100, 64, 0, 0], 10, "shared with a provider"),
    ([192, 0, 0, 0], 24, "reserved"),
    ([192, 0, 2, 0], 24, "for documentation"),
    ([198, 51, 100, 0], 24, "for documentation"),
    ([203, 0, 113, 0], 24, "for documentation"),
    ([198, 18, 0, 0], 15, "for benchmarks"),
    ([192, 88, 99, 0], 24, "a 6to4 relay"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

/// The same of IPv6, by the first four groups and the last. Those that have an IPv4 address inside lead elsewhere than they seem.
const V6: &[([u16; 8], u32, &str)] = &[
    (
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
        128,
        "a metadata address",
    ),
    (
        [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254],
        128,
        "a metadata address",
    ),
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "private"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "private"),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 32, "translated to IPv4"),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "tunnelled to IPv4"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "tunnelled to IPv4"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "reserved"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "for documentation"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "for documentation"),
];

/// Returns what keeps an address from being a public one, as the end of "it is ...". `None` if it is public.
pub(crate) fn why_not_public(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let bits = u32::from(address);
            let inside = |first: [u8; 4], length| {
                (bits ^ u32::from(Ipv4Addr::from(first))) >> (32 - length) == 0
            };
            let block = V4.iter().find(|&&(first, length, _)| inside(first, length));
            block.map(|(_, _, name)| *name)
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            let inside = |first: [u16; 8], length| {
                (bits ^ u128::from(Ipv6Addr::from(first))) >> (128 - length) == 0
            };
            let block = V6.iter().find(|&&(first, length, _)| inside(first, length));
            // All that is assigned to networks begins with 001.
            let other = (bits >> 125 != 1).then_some("reserved");
            block.map(|(_, _, name)| *name).or(other)
        }
    }
}

/// Returns true if the address is one of this host's: a socket can be bound to it. On a host where that is possible with any
/// address the answer means nothing, and is false.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let can_bind = |address| UdpSocket::bind((address, 0)).is_ok();
    let foreign = match address {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    can_bind(address) && !can_bind(foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first and last address of each block, and those before and behind it that are public.
    const BLOCKS: &[(&str, &str, &str, &str)] = &[
        ("0.0.0.0", "0.255.255.255", "", "1.0.0.0"),
        ("10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"),
        (
            "100.64.0.0",
            "100.127.255.255",
            "100.63.255.255",
            "100.128.0.0",
        ),
        (
            "127.0.0.0",
            "127.255.255.255",
            "126.255.255.255",
            "128.0.0.0",
        ),
        (
            "169.254.0.0",
            "169.254.255.255",
            "169.253.255.255",
            "169.255.0.0",
        ),
        (
            "172.16.0.0",
            "172.31.255.255",
            "172.15.255.255",
            "172.32.0.0",
        ),
        ("192.0.0.0", "192.0.0.255", "191.255.255.255", "192.0.1.0"),
        ("192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"),
        (
            "192.88.99.0",
            "192.88.99.255",
            "192.88.98.255",
            "192.88.100.0",
        ),
        (
            "192.168.0.0",
            "192.168.255.255",
            "192.167.255.255",
            "192.169.0.0",
        ),
        (
            "198.18.0.0",
            "198.19.255.255",
            "198.17.255.255",
            "198.20.0.0",
        ),
        (
            "198.51.100.0",
            "198.51.100.255",
            "198.51.99.255",
            "198.51.101.0",
        ),
        (
            "203.0.113.0",
            "203.0.113.255",
            "203.0.112.255",
            "203.0.114.0",
        ),
        ("224.0.0.0", "255.255.255.255", "223.255.255.255", ""),
        (
            "168.63.129.16",
            "168.63.129.16",
            "168.63.129.15",
            "168.63.129.17",
        ),
        (
            "::",
            "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "",
            "2000::",
        ),
        (
            "2001::",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2000:ffff::",
            "2001:200::",
        ),
        (
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db7:ffff::",
            "2001:db9::",
        ),
        (
            "2002::",
            "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:ffff::",
            "2003::",
        ),
        (
            "3fff::",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3ffe:ffff::",
            "3fff:1000::",
        ),
        (
            "4000::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff:1000::",
            "",
        ),
    ];

    #[test]
    fn the_first_and_last_address_of_each_block_are_not_public_and_their_neighbours_are() {
        for &(first, last, before, behind) in BLOCKS {
            for (address, is_public) in [
                (first, false),
                (last, false),
                (before, true),
                (behind, true),
            ] {
                if let Ok(parsed) = address.parse() {
                    let why = why_not_public(parsed);
                    assert_eq!(why.is_none(), is_public, "{address}: {why:?}");
                } else {
                    assert_eq!(address, "");
                }
            }
        }
    }

    #[test]
    fn addresses_are_called_by_their_use() {
        for (address, name) in [
            ("169.254.169.254", "a metadata address"),
            ("fd00:ec2::254", "a metadata address"),
            ("::1", "loopback"),
            ("::ffff:10.0.0.1", "private"),
            ("fe80::1", "link-local"),
            ("fd00::1", "private"),
            ("fec0::1", "private"),
            ("ff02::1", "multicast"),
            ("64:ff9b::7f00:1", "translated to IPv4"),
            ("64:ff9b:1::7f00:1", "translated to IPv4"),
            ("2002:7f00:1::", "tunnelled to IPv4"),
            ("2001::1", "tunnelled to IPv4"),
            ("::7f00:1", "reserved"),
            ("0.0.0.0", "unspecified"),
            ("::", "unspecified"),
        ] {
            assert_eq!(
                why_not_public(address.parse().unwrap()),
                Some(name),
                "{address}"
            );
        }
    }

    #[test]
    fn the_hosts_own_addresses_are_known() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_own(Ipv4Addr::new(8, 8, 8, 8).into()));
        assert!(!is_own("2600::1".parse().unwrap()));
    }
}
