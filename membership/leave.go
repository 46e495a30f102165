package membership

import (
	"slices"

	"github.com/zerofleet/zerofleet/shard"
)

// fewer are the members that go on: those that drain or have left already leave, and in a job that may use fewer workers the
// last ranks, but none whose state is lost without it. What a rank that leaves had is served from its buddy, so of the two only one
// leaves at a time.
func fewer(v View, have []Candidate) []Candidate {
	members := incarnations(v.Current.Members)
	leaves := func(c Candidate) bool {
		_, draining := v.drains(c.ID, c.Incarnation)
		return draining || members[c.ID] != c.Incarnation
	}
	if len(have) <= v.Max && !slices.ContainsFunc(have, leaves) {
		return have
	}
	c := newCopies(v, have)
	stay := slices.Clone(have)
	leave := func(want func(Candidate) bool, down int) {
		for i := len(stay) - 1; i >= 0 && len(stay) > down; i-- {
			if want(stay[i]) && c.spare(stay[i]) {
				c.remove(stay[i])
				stay = slices.Delete(stay, i, i+1)
			}
		}
	}
	leave(leaves, 1)
	switch over := len(stay) > v.Max; {
	case over && (c.lost || v.Replicas == 0 && !v.Whole):
		return stay[:v.Max] // the state is lost whoever stays, or nobody can serve what a rank that leaves had
	case over:
		leave(func(Candidate) bool { return true }, v.Max)
	}
	return stay
}

// copies counts who has each shard of the settled generation among those that stay, so that asking whether one can be spared
// does not look at all of them.
type copies struct {
	v     View
	rank  map[string]int // in the settled generation, of who reports state of it
	count []int          // of each shard, or at stage 0 of everything
	lost  bool           // some shard has none, or is not to be trusted: it makes no difference who stays
}

func newCopies(v View, have []Candidate) *copies {
	c := &copies{v: v, rank: map[string]int{}}
	if v.Mark.Settled <= v.After {
		return c // nothing was settled in this run yet
	}
	if v.Settled.Number != v.Mark.Settled {
		c.lost = true // nobody knows what it was
		return c
	}
	c.count = make([]int, len(v.Settled.Members))
	if v.Whole {
		c.count = make([]int, 1)
	}
	for _, x := range have {
		p := v.Promises[x.ID]
		held, ok := p.of(v.Mark.Settled)
		if !ok || p.Incarnation != x.Incarnation {
			continue
		}
		c.rank[x.ID] = held.Rank
		c.lost = c.lost || held.Distrusted
		for _, s := range c.of(x) {
			c.count[s]++
		}
	}
	c.lost = c.lost || slices.Contains(c.count, 0)
	return c
}

// of are the shards that one has: its own and its ward's.
func (c *copies) of(x Candidate) []int {
	r, ok := c.rank[x.ID]
	world := len(c.v.Settled.Members)
	switch {
	case !ok:
		return nil
	case c.v.Whole:
		return []int{0}
	case c.v.Replicas == 0 || world == 1:
		return []int{r}
	}
	return []int{r, shard.Ward(r, world)}
}

// spare says whether nothing is lost without x.
func (c *copies) spare(x Candidate) bool {
	return c.lost || !slices.ContainsFunc(c.of(x), func(s int) bool { return c.count[s] == 1 })
}

func (c *copies) remove(x Candidate) {
	for _, s := range c.of(x) {
		c.count[s]--
	}
}
