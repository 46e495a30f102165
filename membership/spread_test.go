package membership

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// on gives candidates 0, 1, 2 ... on these machines.
func on(hosts string) []Candidate {
	var list []Candidate
	for i, h := range strings.Fields(hosts) {
		list = append(list, Candidate{ID: fmt.Sprint(i), Host: h})
	}
	return list
}

func TestSpread(t *testing.T) {
	for _, c := range []struct{ hosts, want string }{
		{"", ""},
		{"a a a", "0 1 2"},
		{"a b c", "0 1 2"},
		{"a a b b", "0 2 1 3"},
		{"a b a b", "0 1 2 3"},
		{"a a a b", "0 3 1 2"},
		{"a b b b c", "1 0 2 4 3"},
		{"a a b b c c", "0 2 4 1 3 5"},
	} {
		var ids []string
		for _, x := range spread(on(c.hosts)) {
			ids = append(ids, x.ID)
		}
		if got := strings.Join(ids, " "); got != c.want {
			t.Errorf("%q: got %q, want %q", c.hosts, got, c.want)
		}
	}
}

// Whatever the machines: everybody is there once, and neighbours share a machine only when it has more than half of all.
func TestSpreadIsAsWideAsItCanBe(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		list := on("")
		hosts, most := map[string]int{}, 0
		for i := range random.IntN(20) {
			h := fmt.Sprint(random.IntN(1 + random.IntN(6)))
			hosts[h]++
			most = max(most, hosts[h])
			list = append(list, Candidate{ID: fmt.Sprint(i), Host: h})
		}
		got := spread(list)
		seen := map[string]bool{}
		together := 0
		for i, c := range got {
			seen[c.ID] = true
			if i > 0 && got[i-1].Host == c.Host {
				together++
			}
		}
		if len(seen) != len(list) || len(got) != len(list) {
			t.Fatalf("seed %d: %v from %v", seed, got, list)
		}
		if want := max(0, 2*most-len(list)-1); together != want {
			t.Fatalf("seed %d: %d neighbours share a machine, want %d: %v", seed, together, want, got)
		}
		if len(hosts) == 1 && !slices.Equal(got, list) {
			t.Fatalf("seed %d: one machine, and another order", seed)
		}
	}
}
