//! The packet filter between the servers: which rules make which fault.

use super::plan::Cut;
use super::shell::{sh, with_input};

/// Where a server's peers reach it, on whatever address it has.
pub(crate) const PEER_PORT: u16 = 4647;

/// What becomes of what one server sends another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// Packets of connections that the sender opened vanish.
    Closed,
    /// All packets vanish.
    Cut,
    Open,
    /// Packets of connections that the sender opened are answered by a reset.
    Reset,
}

/// The ways between all pairs of `count` servers, row by sender, when `victim` is cut off.
pub(crate) fn ways(cut: Cut, victim: usize, count: usize) -> Vec<Vec<Way>> {
    // The victim is first, the others follow in their order.
    let place = |server: usize| (server + count - victim) % count;
    let way = |from: usize, to: usize| {
        let (a, b) = (place(from), place(to));
        match cut {
            _ if a == b => Way::Open,
            Cut::Bridge => {
                let half = |at: usize| at > count / 2;
                if a > 0 && b > 0 && half(a) != half(b) { Way::Cut } else { Way::Open }
            }
            Cut::Deaf => {
                if b == 0 {
                    Way::Closed
                } else {
                    Way::Open
                }
            }
            Cut::Everybody => Way::Cut,
            Cut::Minority => {
                let minority = |at: usize| at < count.div_ceil(2) - 1;
                if minority(a) == minority(b) { Way::Open } else { Way::Cut }
            }
            Cut::Mute => {
                if a == 0 {
                    Way::Closed
                } else {
                    Way::Open
                }
            }
            Cut::One => {
                if a == 0 || b == 0 {
                    Way::Cut
                } else {
                    Way::Open
                }
            }
            Cut::Reset => {
                if a == 0 || b == 0 {
                    Way::Reset
                } else {
                    Way::Open
                }
            }
        }
    };
    (0..count).map(|from| (0..count).map(|to| way(from, to)).collect()).collect()
}

/// The rules that make these ways between servers at these addresses.
pub(crate) fn cut_rules(ways: &[Vec<Way>], addresses: &[String]) -> Vec<String> {
    let mut rules = Vec::new();
    for (from, row) in ways.iter().enumerate() {
        for (to, way) in row.iter().enumerate() {
            let pair = format!("-A FORWARD -s {} -d {}", addresses[from], addresses[to]);
            let opened = format!("{pair} -p tcp --dport {PEER_PORT}");
            match way {
                Way::Closed => rules.push(format!("{opened} -j DROP")),
                Way::Cut => rules.push(format!("{pair} -j DROP")),
                Way::Open => {}
                Way::Reset => {
                    rules.push(format!("{opened} -j REJECT --reject-with tcp-reset"));
                }
            }
        }
    }
    rules
}

pub(crate) fn loss_rules(percent: u64) -> Vec<String> {
    let probability = format!("0.{percent:02}");
    vec![format!("-A FORWARD -m statistic --mode random --probability {probability} -j DROP")]
}

/// Without anybody at the queue, packets pass.
pub(crate) fn queue_rules(queue: u16) -> Vec<String> {
    vec![format!("-A FORWARD -j NFQUEUE --queue-num {queue} --queue-bypass")]
}

/// Puts these rules in the place of all that were there, at once.
pub(crate) fn apply(rules: &[String]) -> Result<(), String> {
    let head = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n";
    let table = format!("{head}{}\nCOMMIT\n", rules.join("\n"));
    with_input("iptables-restore", &table).map(drop)
}

/// How many packets have met a rule since the rules were put there.
pub(crate) fn packets() -> Result<u64, String> {
    Ok(count_packets(&sh("iptables-save -c -t filter")?))
}

fn count_packets(saved: &str) -> u64 {
    let rules = saved.lines().filter_map(|line| line.strip_prefix('[')?.split(':').next());
    rules.filter_map(|packets| packets.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line a sender: `.` open, `x` cut, `-` closed, `r` reset.
    fn picture(cut: Cut, victim: usize, count: usize) -> String {
        let rows = ways(cut, victim, count).into_iter().map(|row| {
            let marks = row.into_iter().map(|way| match way {
                Way::Closed => '-',
                Way::Cut => 'x',
                Way::Open => '.',
                Way::Reset => 'r',
            });
            marks.collect::<String>()
        });
        rows.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_cut_parts_whom_it_says_and_nobody_else() {
        assert_eq!(picture(Cut::One, 1, 3), ".x. x.x .x.");
        assert_eq!(picture(Cut::Reset, 1, 3), ".r. r.r .r.");
        assert_eq!(picture(Cut::Minority, 1, 3), ".x. x.x .x.");
        assert_eq!(picture(Cut::Minority, 4, 5), ".xxx. x...x x...x x...x .xxx.");
        assert_eq!(picture(Cut::Bridge, 0, 3), "... ..x .x.");
        assert_eq!(picture(Cut::Bridge, 2, 5), "...xx ...xx ..... xx... xx...");
        assert_eq!(picture(Cut::Deaf, 2, 3), "..- ..- ...");
        assert_eq!(picture(Cut::Mute, 2, 3), "... ... --.");
        assert_eq!(picture(Cut::Everybody, 0, 3), ".xx x.x xx.");
    }

    #[test]
    fn a_closed_way_lets_the_answers_to_the_other_side_through() {
        let addresses = ["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
        let rules = cut_rules(&ways(Cut::Deaf, 1, 2), &addresses);
        assert_eq!(rules, ["-A FORWARD -s 10.0.0.1 -d 10.0.0.2 -p tcp --dport 4647 -j DROP"]);
    }

    #[test]
    fn packets_are_counted_over_all_rules() {
        let saved = "*filter\n:FORWARD ACCEPT [9:540]\n[12:720] -A FORWARD -s a -j DROP\n\
                     [3:120] -A FORWARD -s b -j DROP\nCOMMIT\n";
        assert_eq!(count_packets(saved), 15);
    }
}
