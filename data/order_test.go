package data

import (
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestPermutationIsABijection(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 3000).Draw(t, "n")
		p := newPermutation(n, rapid.Uint64().Draw(t, "key"))
		hit := make([]bool, n)
		for i := range n {
			x := p.at(i)
			if x < 0 || x >= n || hit[x] {
				t.Fatalf("n=%d: %d goes to %d", n, i, x)
			}
			hit[x] = true
		}
	})
}

// Each value is as often at each place: chi-squared over 6 places, for the small
// domains where a Feistel network is weakest.
func TestPermutationIsFair(t *testing.T) {
	for _, n := range []int64{3, 6, 17} {
		const draws = 20000
		counts := make([][]float64, n)
		for i := range counts {
			counts[i] = make([]float64, n)
		}
		for key := range uint64(draws) {
			p := newPermutation(n, key)
			for i := range n {
				counts[i][p.at(i)]++
			}
		}
		for i := range counts {
			chi := 0.0
			want := draws / float64(n)
			for _, c := range counts[i] {
				chi += (c - want) * (c - want) / want
			}
			// mean n-1, standard deviation sqrt(2(n-1)): six of them
			if limit := float64(n-1) + 6*math.Sqrt(2*float64(n-1)); chi > limit {
				t.Errorf("n=%d place %d: chi-squared %.1f, want below %.1f", n, i, chi, limit)
			}
		}
	}
}

// The order is part of what a job's bits depend on: it may never change.
func TestOrderIsFrozen(t *testing.T) {
	o := newOrder(42, true, []share{newShare(0, 0, 5, 1), newShare(1, 5, 4, 1.5)})
	want := [][]int64{
		{5, 4, 2, 1, 8, 0, 6, 6, 3, 7, 7},
		{0, 6, 8, 4, 8, 5, 5, 7, 2, 3, 1},
	}
	for epoch := range want {
		p := o.pass(int64(epoch))
		var got []int64
		for i := range o.n {
			got = append(got, p.record(i))
		}
		if !reflect.DeepEqual(got, want[epoch]) {
			t.Errorf("epoch %d: got %v, want %v", epoch, got, want[epoch])
		}
	}
}

// A weight of 2.25 shows every record twice and a quarter of them once more, and
// all have had their turn after four epochs.
func TestWeights(t *testing.T) {
	o := newOrder(9, true, []share{newShare(0, 0, 8, 2.25), newShare(1, 8, 3, 1), newShare(2, 11, 6, 0.5)})
	total := map[int64]int{}
	for epoch := range int64(4) {
		seen := map[int64]int{}
		p := o.pass(epoch)
		for i := range o.n {
			seen[p.record(i)]++
			total[p.record(i)]++
		}
		for r := range int64(8) {
			if n := seen[r]; n != 2 && n != 3 {
				t.Fatalf("epoch %d: record %d seen %d times", epoch, r, n)
			}
		}
	}
	for r := range int64(17) {
		want := 9
		if r >= 8 {
			want = 4
		}
		if r >= 11 {
			want = 2
		}
		if total[r] != want {
			t.Errorf("record %d: seen %d times in four epochs, want %d", r, total[r], want)
		}
	}
}

func TestHoldOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64Range(0.01, 0.5).Draw(t, "fraction")
		n := rapid.Int64Range(1, 5000).Draw(t, "records")
		seed := rapid.Uint64().Draw(t, "seed")
		held := int64(0)
		for i := range n {
			if heldOut(seed, 0, 0, i) {
				t.Fatal("held out of nothing")
			}
			if heldOut(seed, 1, f, i) {
				held++
			}
		}
		if want := float64(n) * f; math.Abs(float64(held)-want) > 1.01 {
			t.Fatalf("%d of %d held out, want %.1f", held, n, want)
		}
	})
}

func TestPartsAreDisjointAndWhole(t *testing.T) {
	lengths := make([]int, 200)
	for i := range lengths {
		lengths[i] = 5
	}
	o := Options{
		Sources: []Source{{Path: texts(t, t.TempDir(), "a.jsonl", lengths), Format: Text}}, SequenceLen: 8, HoldOut: 0.1, Seed: 4,
		GlobalBatch: 1, MicroBatch: 1, Epochs: 1,
	}
	seen := map[string]Part{}
	for part, want := range map[Part]int64{Kept: 180, Held: 20} {
		o.Part = part
		d := mustOpen(t, o)
		if d.Records() != want {
			t.Errorf("%s: %d records, want %d", part, d.Records(), want)
		}
		_, leaves := collect(t, d.Stream(Cursor{}, 0), 1000)
		for _, step := range leaves {
			for _, doc := range documents(t, step[0]) {
				if seen[doc] != "" {
					t.Errorf("%q is in both parts", doc)
				}
				seen[doc] = part
			}
		}
	}
	if len(seen) != 200 {
		t.Errorf("%d records in both parts together, want 200", len(seen))
	}
}
