package coordinator

import (
	"strings"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/probe"
	"github.com/zerofleet/zerofleet/membership/store"
)

// Who is accused is removed only when what the coordinator has found fits.
func TestJudge(t *testing.T) {
	began := time.Unix(1000, 0)
	by := func(found probe.Finding, ids ...string) (list []accusation) {
		for _, id := range ids {
			list = append(list, accusation{by: life{id, 1}, found: probe.Result{Finding: found}, since: began, at: began.Add(time.Second)})
		}
		return list
	}
	const refused, silent, unreachable, answered, unclear = probe.Refused, probe.Silent, probe.Unreachable, probe.Answered, probe.Unclear
	for _, c := range []struct {
		name     string
		world    int
		accusers []accusation
		own      probe.Finding
		heard    time.Duration // after the first probe; 0: never
		launched bool
		removed  string // the evidence; "": it stays
		why      string
	}{
		{name: "nobody accuses", world: 3, own: refused, why: "nobody"},
		{name: "its process is gone", world: 3, accusers: by(refused, "0"), own: refused, removed: "refused", why: "worker 0 (refused)"},
		{name: "gone, and the accuser saw it hang before", world: 3, accusers: by(silent, "0"), own: refused, removed: "refused"},
		{name: "gone, of two", world: 2, accusers: by(refused, "0"), own: refused, removed: "refused"},
		{name: "gone, and the launcher will see it", world: 3, accusers: by(refused, "0", "1"), own: refused, launched: true, why: "launcher"},
		{name: "a lie", world: 3, accusers: by(refused, "0"), own: answered, why: "answers the coordinator"},
		{name: "a conspiracy", world: 3, accusers: by(silent, "0", "1"), own: answered, why: "answers the coordinator"},
		{name: "one accuser of a hanging one", world: 3, accusers: by(silent, "0"), own: silent, why: "1 of 2 accusers"},
		{name: "two accusers of a hanging one", world: 3, accusers: by(silent, "0", "1"), own: silent, removed: "silent", why: "worker 0 (silent), worker 1 (silent)"},
		{name: "hanging, launched here", world: 3, accusers: by(silent, "0", "1"), own: silent, launched: true, removed: "silent"},
		{name: "hanging, of two", world: 2, accusers: by(silent, "0"), own: silent, removed: "silent"},
		{name: "two accusers, and it has called meanwhile", world: 3, accusers: by(silent, "0", "1"), own: silent, heard: 1100 * time.Millisecond, why: "has called"},
		{name: "its last call was taken late", world: 3, accusers: by(silent, "0", "1"), own: silent, heard: 900 * time.Millisecond, removed: "silent"},
		{name: "the coordinator was slow itself", world: 3, accusers: by(silent, "0", "1"), own: unclear, why: "tells nothing"},
		{name: "its machine is off", world: 3, accusers: by(unreachable, "0", "1"), own: unreachable, removed: "unreachable"},
		{name: "its machine is off, one accuser", world: 3, accusers: by(unreachable, "0"), own: unreachable, why: "1 of 2"},
		{name: "its machine is off, of two", world: 2, accusers: by(unreachable, "0"), own: unreachable, removed: "unreachable"},
		{name: "cut off from the others alone", world: 3, accusers: by(unreachable, "0", "1"), own: answered, removed: "unreachable", why: "2 of the 2 others"},
		{name: "cut off from one other", world: 3, accusers: by(unreachable, "0"), own: answered, why: "answers"},
		{name: "two of eight are cut off and accuse the rest", world: 8, accusers: by(unreachable, "0", "1"), own: answered, why: "answers"},
		{name: "most of eight accuse one of the two", world: 8, accusers: by(unreachable, "0", "1", "2", "3"), own: answered, removed: "unreachable"},
		{name: "cut off from each other, of two", world: 2, accusers: by(unreachable, "0"), own: answered, why: "answers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := inquiry{world: c.world, accusers: c.accusers, own: probe.Result{Finding: c.own}, launched: c.launched}
			if c.heard > 0 {
				q.heard = began.Add(c.heard)
			}
			removed, why := q.judge()
			if removed != (c.removed != "") || removed && q.accusedOf != c.removed || !strings.Contains(why, c.why) {
				t.Errorf("removed %v (%s) because %q, want %q because of %q", removed, q.accusedOf, why, c.removed, c.why)
			}
		})
	}
}

// An accusation counts while its accuser is a member that nobody has removed, and for some seconds.
func TestOnlyMembersAccuse(t *testing.T) {
	now := time.Unix(1000, 0)
	v := store.View{Registrations: map[string]store.Worker{}, Processes: map[string]store.Process{}}
	for i, id := range []string{"0", "1", "2", "3"} {
		v.Generation.Members = append(v.Generation.Members, membership.Member{ID: id, Incarnation: 1, Rank: i})
		v.Registrations[id] = store.Worker{ID: id, Incarnation: 1}
	}
	v.Registrations["1"] = store.Worker{ID: "1", Incarnation: 1, Removed: true}
	s := newSuspects(nil)
	of := life{"3", 1}
	for _, a := range []struct {
		by  life
		age time.Duration
	}{{life{"0", 1}, 0}, {life{"1", 1}, 0}, {life{"2", 1}, accusationLife}, {life{"2", 2}, 0}, {life{"9", 1}, 0}, {of, 0}} {
		if !s.accuse(of, accusation{by: a.by, found: probe.Result{Finding: probe.Silent}, at: now.Add(-a.age)}) {
			t.Errorf("the first accusation of %v is not new", a.by)
		}
	}
	q := s.inquire(v, of, probe.Result{Finding: probe.Silent}, now)
	if len(q.accusers) != 1 || q.accusers[0].by.id != "0" || q.world != 4 {
		t.Errorf("accusers %v of a world of %d, want worker 0 of 4", q.accusers, q.world)
	}
	if s.accuse(of, accusation{by: life{"0", 1}, found: probe.Result{Finding: probe.Silent}, at: now}) {
		t.Error("a repeated accusation is new")
	}
}

func TestFreeID(t *testing.T) {
	two := 2
	v := store.View{
		Run:           store.Run{Max: 4, Local: &two},
		Registrations: map[string]store.Worker{"2": {ID: "2", Nonce: []byte("a"), Removed: true}, "other": {ID: "other", Nonce: []byte("b")}},
		Processes:     map[string]store.Process{"3": {ID: "3"}},
	}
	if got := freeID(v, []byte("c")); got != "4" {
		t.Errorf("got %s, want 4: 0 and 1 are the launcher's, 2 had been somebody, 3 was launched", got)
	}
	if got := freeID(v, []byte("b")); got != "other" {
		t.Errorf("a repeated registration gets %s, want its own id", got)
	}
	v.Run.Local = nil
	if got := freeID(v, []byte("c")); got != "4" {
		t.Errorf("got %s, want 4: the launcher starts four", got)
	}
}
