use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{CHUNK, CowMap};

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u8),
    Remove(u16),
    Change(u16),
    Copy,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u16..2000, any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
        5 => (0u16..2000).prop_map(Step::Remove),
        2 => (0u16..2000).prop_map(Step::Change),
        1 => Just(Step::Copy),
    ]
}

fn assert_equal(map: &CowMap<u16, u8>, model: &BTreeMap<u16, u8>) {
    assert_eq!(map.len(), model.len());
    assert!(map.iter().eq(model.iter()));
    assert!(map.chunks.iter().all(|(_, chunk)| !chunk.is_empty() && chunk.len() <= CHUNK));
    let mut pairs = map.chunks.windows(2);
    assert!(pairs.all(|pair| pair[0].1[pair[0].1.len() - 1].0 < pair[1].0 && pair[1].0 <= pair[1].1[0].0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_is_a_map_and_copies_stay_as_they_were(filled in 0u16..2000, steps in prop::collection::vec(step(), 1..3000)) {
        let mut map = CowMap::default();
        let mut model = BTreeMap::new();
        let mut copies = Vec::new();
        for key in 0..filled {
            assert_eq!(map.insert(key, 7), model.insert(key, 7));
        }
        for step in steps {
            match step {
                Step::Insert(key, value) => assert_eq!(map.insert(key, value), model.insert(key, value)),
                Step::Remove(key) => {
                    assert_eq!(map.remove(&key), model.remove(&key));
                    assert!(map.iter_from(&key).eq(model.range(key..)));
                }
                Step::Change(key) => {
                    assert_eq!(map.get(&key), model.get(&key));
                    if let (Some(ours), Some(theirs)) = (map.get_mut(&key), model.get_mut(&key)) {
                        *ours ^= 1;
                        *theirs ^= 1;
                    }
                }
                Step::Copy if copies.len() < 4 => copies.push((map.clone(), model.clone())),
                Step::Copy => {}
            }
        }
        copies.push((map, model));
        for (map, model) in &copies {
            assert_equal(map, model);
        }
    }
}

#[test]
fn what_grows_at_its_end_fills_its_chunks() {
    let mut map = CowMap::default();
    for key in 0..CHUNK * 10 {
        map.insert(key, ());
    }
    assert_eq!(map.chunks.len(), 10);
    for key in 0..CHUNK * 10 - 1 {
        assert_eq!(map.first().map(|(first, _)| *first), Some(key));
        map.remove(&key);
    }
    assert_eq!((map.chunks.len(), map.len()), (1, 1));
}
