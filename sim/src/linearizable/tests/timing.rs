use super::*;
#[test]
fn timing() {
    for (n, clients, unk, telling) in [
        (2000, 10, 50, Telling::Found),
        (2000, 50, 50, Telling::Found),
        (2000, 10, 50, Telling::Anything),
        (2000, 50, 20, Telling::Found),
    ] {
        let shape = Shape { operations: n, clients, unknown_one_in: unk, telling, ..USUAL };
        let mut v = vec![];
        for seed in 0..20 {
            let mut rng = Rng::with_seed(seed);
            let history = history(good(&mut rng, shape));
            let mut s = Search::new(Register::all(&history).remove(&0).unwrap());
            let mut steps = 20_000_000;
            let p = s.run(&mut steps, u64::MAX, 1 << 30);
            v.push(((20_000_000 - steps) / 1000, p));
        }
        v.sort_by_key(|x| x.0);
        println!("{n} {clients} {unk}: ksteps {:?}", v.iter().map(|x| x.0).collect::<Vec<_>>());
    }
}
