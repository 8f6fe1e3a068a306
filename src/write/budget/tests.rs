use futures::FutureExt;
use proptest::prelude::*;

use super::*;

fn waiting(budget: &Budget, bytes: u64) -> std::pin::Pin<Box<dyn Future<Output = Result<Grant>> + Send + 'static>> {
    let budget = budget.clone();
    Box::pin(async move { budget.grant(bytes).await })
}

#[test]
fn a_request_waits_until_enough_is_given_back() {
    let budget = Budget::new(100);
    let first = budget.grant(70).now_or_never().expect("free").expect("granted");
    let mut second = waiting(&budget, 40);
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    assert_eq!(second.now_or_never().expect("free").expect("granted").bytes(), 40);
}

#[test]
fn a_request_larger_than_the_limit_is_admitted_alone() {
    let budget = Budget::new(100);
    let small = budget.hold(1);
    let mut large = waiting(&budget, 500);
    assert!(large.as_mut().now_or_never().is_none());
    drop(small);
    let large = large.now_or_never().expect("alone").expect("granted");
    assert_eq!((budget.used(), budget.over()), (500, true));
    assert!(waiting(&budget, 1).now_or_never().is_none());
    drop(large);
    assert_eq!(budget.used(), 0);
}

#[test]
fn nobody_overtakes_a_large_request() {
    let budget = Budget::new(100);
    let first = budget.hold(60);
    let mut large = waiting(&budget, 90);
    assert!(large.as_mut().now_or_never().is_none());
    let mut small = waiting(&budget, 10);
    assert!(small.as_mut().now_or_never().is_none(), "it would fit, but came later");
    drop(first);
    let large = large.now_or_never().expect("first in line").expect("granted");
    let small = small.now_or_never().expect("fits beside").expect("granted");
    assert_eq!(budget.used(), large.bytes() + small.bytes());
}

#[test]
fn who_gives_up_waiting_lets_the_next_one_through() {
    let budget = Budget::new(100);
    let _first = budget.hold(60);
    let mut large = waiting(&budget, 90);
    assert!(large.as_mut().now_or_never().is_none());
    let mut small = waiting(&budget, 10);
    assert!(small.as_mut().now_or_never().is_none());
    drop(large);
    assert!(small.now_or_never().is_some());
}

#[test]
fn resizing_never_waits_and_is_counted() {
    let budget = Budget::new(100);
    let mut grant = budget.hold(10);
    grant.resize(300);
    assert_eq!((budget.used(), budget.over()), (300, true));
    grant.resize(0);
    assert_eq!((budget.used(), budget.over()), (0, false));
}

#[test]
fn epochs_are_sealed_while_there_is_room_for_what_nobody_counts() {
    const MIB: u64 = 1 << 20;
    for (limit, most) in [(32, 16), (256, 144), (400, 288), (1000, 800)] {
        let budget = Budget::new(limit * MIB);
        let mut grant = budget.hold(most * MIB);
        assert!(!budget.over(), "{limit}");
        grant.resize(most * MIB + 1);
        assert!(budget.over(), "{limit}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u64),
    Drop(usize),
    Resize(usize, u64),
    GiveUp(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..150).prop_map(Step::Ask),
        any::<usize>().prop_map(Step::Drop),
        (any::<usize>(), 0_u64..150).prop_map(|(at, bytes)| Step::Resize(at, bytes)),
        any::<usize>().prop_map(Step::GiveUp),
    ]
}

proptest! {
    #[test]
    fn used_is_the_sum_of_grants_and_every_waiter_gets_through(steps in prop::collection::vec(step(), 1..60)) {
        let budget = Budget::new(100);
        let mut held: Vec<Grant> = Vec::new();
        let mut queue = VecDeque::new();
        for step in steps {
            match step {
                Step::Ask(bytes) => queue.push_back(waiting(&budget, bytes)),
                Step::Drop(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                Step::Resize(at, bytes) if !held.is_empty() => {
                    let at = at % held.len();
                    held[at].resize(bytes);
                }
                Step::GiveUp(at) if !queue.is_empty() => drop(queue.remove(at % queue.len())),
                _ => {}
            }
            let mut still = VecDeque::new();
            while let Some(mut waiter) = queue.pop_front() {
                match waiter.as_mut().now_or_never() {
                    Some(grant) => {
                        prop_assert!(still.is_empty(), "somebody was overtaken");
                        held.push(grant.expect("granted"));
                    }
                    None => still.push_back(waiter),
                }
            }
            queue = still;
            prop_assert_eq!(budget.used(), held.iter().map(Grant::bytes).sum::<u64>());
        }
        for waiter in queue {
            held.clear();
            held.push(waiter.now_or_never().expect("nothing else is in use").expect("granted"));
        }
        held.clear();
        prop_assert_eq!(budget.used(), 0);
    }
}

#[test]
fn what_is_wanted_beside_the_queue_seals_epochs_until_it_is_free() {
    let budget = Budget::new(1 << 30);
    let ingest = budget.hold(700 << 20);
    assert!(!budget.over());
    let wanted = budget.want(400 << 20).take().expect_err("not free");
    assert!(budget.over(), "epochs are sealed");
    drop(ingest);
    let grant = wanted.take().expect("free now");
    assert_eq!((budget.used(), budget.over()), (400 << 20, false));
    drop(grant);
    let most = budget.want(u64::MAX).take().expect("free");
    assert_eq!((most.bytes(), budget.used()), (512 << 20, 512 << 20));
    drop(budget.want(1 << 20));
    drop(most);
    assert_eq!((budget.used(), budget.over()), (0, false));
}
