//! The network: one namespace a server, each with a link to the namespace of this process, which
//! passes packets on between them and is where the clients are.
//!
//! All of it is in a namespace that ends with this process, so nothing outside can see or name it.

use super::shell::{sh, try_sh};

pub(crate) struct Lab {
    prefix: String,
    count: usize,
}

/// What must be so in the namespace of this process before there can be a lab.
pub(crate) fn prepare() -> Result<(), String> {
    // Names of namespaces are files under /run; these are seen by this process alone.
    sh("mount -t tmpfs -o size=16m tmpfs /run")?;
    sh("ip link set lo up")?;
    let forward = "/proc/sys/net/ipv4/ip_forward";
    std::fs::write(forward, "1").map_err(|error| format!("{forward}: {error}"))
}

impl Lab {
    /// A namespace for each server; names begin with `prefix`.
    pub(crate) fn build(prefix: &str, count: usize) -> Result<Self, String> {
        let lab = Self { prefix: prefix.to_owned(), count };
        for number in 0..count {
            let (space, link) = (lab.space(number), lab.link(number));
            let (ours, theirs) = (format!("10.77.{number}.1"), address(number));
            sh(&format!("ip netns add {space}"))?;
            sh(&format!("ip link add {link} type veth peer name eth0 netns {space}"))?;
            sh(&format!("ip addr add {ours}/24 dev {link}"))?;
            sh(&format!("ip link set {link} up"))?;
            sh(&format!("ip -n {space} addr add {theirs}/24 dev eth0"))?;
            sh(&format!("ip -n {space} link set eth0 up"))?;
            sh(&format!("ip -n {space} link set lo up"))?;
            sh(&format!("ip -n {space} route add default via {ours}"))?;
        }
        Ok(lab)
    }

    /// The words that start a program where this server is.
    pub(crate) fn launcher(&self, number: usize) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.space(number))]
    }

    /// Makes the link from this server slow.
    pub(crate) fn slow(&self, number: usize, kbit: u64) -> Result<(), String> {
        let queue = format!("tbf rate {kbit}kbit burst 4k latency 400ms");
        sh(&format!("tc -n {} qdisc add dev eth0 root {queue}", self.space(number))).map(drop)
    }

    /// Makes it fast again; how many packets had to wait.
    pub(crate) fn unslow(&self, number: usize) -> Result<u64, String> {
        let space = self.space(number);
        let shown = sh(&format!("tc -n {space} -s qdisc show dev eth0"))?;
        sh(&format!("tc -n {space} qdisc del dev eth0 root"))?;
        Ok(overlimits(&shown))
    }

    fn space(&self, number: usize) -> String {
        format!("{}n{number}", self.prefix)
    }

    fn link(&self, number: usize) -> String {
        format!("{}v{number}", self.prefix)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for number in 0..self.count {
            try_sh(&format!("ip link del {}", self.link(number)));
            try_sh(&format!("ip netns del {}", self.space(number)));
        }
    }
}

pub(crate) fn address(number: usize) -> String {
    format!("10.77.{number}.2")
}

fn overlimits(shown: &str) -> u64 {
    let after = shown.split("overlimits ").nth(1).unwrap_or_default();
    after.split_whitespace().next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packets_that_waited_are_read_from_what_tc_shows() {
        let shown = "qdisc tbf 8001: root refcnt 3 rate 800Kbit burst 4Kb lat 400ms\n \
                     Sent 10 bytes 2 pkt (dropped 1, overlimits 17 requeues 0)\n";
        assert_eq!(overlimits(shown), 17);
        assert_eq!(overlimits("qdisc noqueue 0: root refcnt 2"), 0);
    }
}
