//! Bounds extra requests to a group: repeated ones, and those sent to a second server in parallel.
//!
//! Retries multiply the load of a group that is failing because of its load. So each request earns a part of a
//! token, and each extra one costs a token. Every worker keeps its own account. No clock: the time is an argument.

use std::cell::Cell;

/// How many extra requests a group may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As a share of its requests.
    pub percent: u32,
    /// As many a second are permitted in any case, so that a group with little load can be retried at all.
    pub min_per_s: u32,
}

/// Requests are counted in thousandths of a token.
const TOKEN: u64 = 1000;
/// Unused tokens are kept as long as they would take to arrive by `min_per_s`, and as many more of `percent`.
const KEPT_S: u64 = 10;

/// The account of one group in one worker.
#[derive(Debug, Default)]
pub struct Budget {
    thousandths: Cell<u64>,
    /// Up to when `min_per_s` has been paid in; 0: not yet.
    paid_ms: Cell<u64>,
}

impl Budget {
    /// Counts a request.
    #[inline]
    pub fn earn(&self, rule: Rule) {
        let sum = self.thousandths.get() + u64::from(rule.percent) * TOKEN / 100;
        self.thousandths.set(sum.min(Self::max(rule)));
    }

    /// Takes a token for an extra request. False: the group has had its share.
    pub fn spend(&self, rule: Rule, now_ms: u64) -> bool {
        self.pay_in(rule, now_ms);
        let left = self.thousandths.get().checked_sub(TOKEN);
        if let Some(left) = left {
            self.thousandths.set(left);
        }
        left.is_some()
    }

    /// True if there is a token.
    pub fn is_left(&self, rule: Rule, now_ms: u64) -> bool {
        self.pay_in(rule, now_ms);
        self.thousandths.get() >= TOKEN
    }

    fn pay_in(&self, rule: Rule, now_ms: u64) {
        let per_ms = u64::from(rule.min_per_s) * TOKEN / 1000;
        let passed_ms = match self.paid_ms.replace(now_ms) {
            0 => KEPT_S * 1000, // a group begins with what it may keep
            paid_ms => now_ms.saturating_sub(paid_ms).min(KEPT_S * 1000),
        };
        self.thousandths.set((self.thousandths.get() + passed_ms * per_ms).min(Self::max(rule)));
    }

    fn max(rule: Rule) -> u64 {
        (u64::from(rule.min_per_s) * KEPT_S + u64::from(rule.percent)).max(1) * TOKEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { percent: 20, min_per_s: 2 };

    fn spent(budget: &Budget, now_ms: u64) -> usize {
        (0..1000).take_while(|_| budget.spend(RULE, now_ms)).count()
    }

    #[test]
    fn extra_requests_are_a_share_of_all() {
        let budget = Budget::default();
        assert_eq!(spent(&budget, 1000), 20, "ten seconds of the minimum");
        (0..50).for_each(|_| budget.earn(RULE));
        assert!(budget.is_left(RULE, 1000));
        assert_eq!(spent(&budget, 1000), 10);
        assert!(!budget.is_left(RULE, 1000));
    }

    #[test]
    fn a_few_a_second_are_permitted_in_any_case() {
        let budget = Budget::default();
        spent(&budget, 1000);
        assert_eq!(spent(&budget, 1499), 0);
        assert_eq!(spent(&budget, 2000), 2, "no time is lost between looks");
        assert_eq!(spent(&budget, 1_000_000), 20, "but no more than ten seconds' worth is kept");
    }

    #[test]
    fn a_quiet_time_with_many_requests_saves_no_flood() {
        let budget = Budget::default();
        (0..100_000).for_each(|_| budget.earn(RULE));
        assert_eq!(spent(&budget, 1000), 40);
    }

    #[test]
    fn without_a_minimum_only_the_share_counts() {
        let rule = Rule { percent: 10, min_per_s: 0 };
        let budget = Budget::default();
        assert!(!budget.spend(rule, 1000));
        (0..10).for_each(|_| budget.earn(rule));
        assert!(budget.spend(rule, 1000) && !budget.spend(rule, 9000));
    }
}
