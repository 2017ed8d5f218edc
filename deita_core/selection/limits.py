"""Limits of a selection: budgets in rows and tokens, and least and largest shares of groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from deita_core.errors import InputError
from deita_core.selection.token_budget import FULL

# Takes candidates (positions in rank order), asking the limits for each; `forced`: all of them, without asking.
Rule = Callable[[np.ndarray, bool], None]
Refusal = Literal["tokens", "quota", "redundant"]


@dataclass(frozen=True)
class Groups:
    """The group (n,) of each candidate, by number, and for each group the least rows and the largest amount.

    `floors` (g,): rows; `caps` (g,): rows, or tokens if only these have a budget; infinite without a limit.
    """

    of: np.ndarray
    floors: np.ndarray
    caps: np.ndarray

    def __post_init__(self) -> None:
        """Raise InputError for a group that needs more rows than it may have."""
        if (self.floors > self.caps).any():
            raise InputError("A group needs more rows than it may have; lower the floor, or raise the cap.")


@dataclass
class Limits:
    """Admits candidates as long as the budgets and the caps of their groups allow.

    `budget`: rows; `tokens` (n,): of each candidate, for `token_budget`. A candidate that does not fit in what is left
    of the tokens is refused, and others may still fit, until 99% of them are used.
    """

    budget: int | None = None
    token_budget: int | None = None
    tokens: np.ndarray | None = None
    groups: Groups | None = None
    selected: list[int] = field(default_factory=list)
    refused: dict[int, Refusal] = field(default_factory=dict)
    used: int = 0
    _amounts: np.ndarray = field(init=False)
    _rows: np.ndarray = field(init=False)
    _taken: set[int] = field(init=False, default_factory=set)
    _only_floors: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Start with no row. Raises InputError for a budget below 1, and for a budget of tokens without tokens."""
        for limit in (self.budget, self.token_budget):
            if limit is not None and limit < 1:
                raise InputError(f"The budget is {limit}; give at least 1.")
        if self.token_budget is not None and self.tokens is None:
            raise InputError("A budget in tokens needs the tokens of each candidate.")
        count = len(self.groups.floors) if self.groups else 0
        self._amounts, self._rows = np.zeros(count, np.int64), np.zeros(count, np.int64)

    def is_selected(self, row: int) -> bool:
        """True for a candidate taken."""
        return row in self._taken

    @property
    def full(self) -> bool:
        """True once no further candidate is needed."""
        if self.budget is not None and len(self.selected) >= self.budget:
            return True
        if self.token_budget is not None and self.used >= FULL * self.token_budget:
            return True
        return self._only_floors and not self.lacking.any()

    @property
    def lacking(self) -> np.ndarray:
        """How many rows each group (g,) has less than its floor."""
        return np.maximum(self.groups.floors - self._rows, 0) if self.groups else np.zeros(0, np.int64)

    def admit(self, row: int) -> bool:
        """Take a candidate if it fits, or note why it does not."""
        tokens = int(self.tokens[row]) if self.tokens is not None else 0
        if self.token_budget is not None and self.used + tokens > self.token_budget:
            self.refused[row] = "tokens"
            return False
        if self.groups is not None:
            group = self.groups.of[row]
            amount = 1 if self.budget is not None else tokens
            enough = self._rows[group] >= self.groups.floors[group] if self._only_floors else False
            if enough or self._amounts[group] + amount > self.groups.caps[group]:
                self.refused[row] = "quota"
                return False
        self._take(row, tokens)
        return True

    def force(self, row: int) -> None:
        """Take a candidate even if it does not fit."""
        self._take(row, int(self.tokens[row]) if self.tokens is not None else 0)

    def _take(self, row: int, tokens: int) -> None:
        self.selected.append(row)
        self._taken.add(row)
        self.used += tokens
        self.refused.pop(row, None)
        if self.groups is not None:
            group = self.groups.of[row]
            self._rows[group] += 1
            self._amounts[group] += 1 if self.budget is not None else tokens

    def fill(self, count: int, rule: Rule, kept: Sequence[int] = ()) -> None:
        """Have a rule take candidates (positions 0 to `count`): first those kept, then the floors, then the rest.

        Within each part the rule sees the candidates in rank order. Raises InputError if the kept ones alone are more
        than a budget.
        """
        left = np.arange(count)
        if len(kept):
            rule(np.sort(np.asarray(kept, np.int64)), True)
            self._check_kept(len(self.selected))
            left = np.setdiff1d(left, self.selected)
        if self.groups is not None and self.lacking.any():
            self._only_floors = True
            rule(left[self.groups.floors[self.groups.of[left]] > 0], False)
            self._only_floors = False
            self.refused.clear()
            left = np.setdiff1d(left, self.selected)
        if not self.full:
            rule(left, False)

    def _check_kept(self, count: int) -> None:
        over_rows = self.budget is not None and count > self.budget
        if over_rows or (self.token_budget is not None and self.used > self.token_budget):
            of_tokens = "" if self.token_budget is None else f" of {self.used:,} tokens"
            raise InputError(f"The {count:,} rows to keep{of_tokens} are more than the budget; raise it.")


def take_in_order(limits: Limits, rows: np.ndarray, forced: bool) -> None:
    """Take candidates in the order given: diversity `none`."""
    for row in rows.tolist():
        if forced:
            limits.force(row)
        elif limits.full:
            return
        else:
            limits.admit(row)
