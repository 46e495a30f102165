package generate

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// sampler chooses the next token, in transformers' order: penalty, temperature, top-k, top-p.
type sampler struct {
	o    Options
	rng  *rand.Rand
	seen []bool // by token: in the prompt or in the answer
	kept []candidate
}

type candidate struct {
	token int32
	logit float64
	p     float64 // not normalised
}

func newSampler(o Options, vocab int) *sampler {
	return &sampler{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0)), seen: make([]bool, vocab)}
}

// saw tells of a token that the penalty falls on. Tokens outside the vocabulary never get here.
func (s *sampler) saw(token int32) { s.seen[token] = true }

// next is the token after logits, [V], which it changes. Ties go to the lower token.
func (s *sampler) next(logits []float32) (int32, error) {
	if len(logits) != len(s.seen) {
		return 0, fmt.Errorf("sample from %d logits, want %d", len(logits), len(s.seen))
	}
	if penalty := float32(s.o.RepetitionPenalty); penalty != 0 && penalty != 1 {
		for t, seen := range s.seen {
			switch {
			case seen && logits[t] < 0:
				logits[t] *= penalty
			case seen:
				logits[t] /= penalty
			}
		}
	}
	best := 0
	for t, l := range logits {
		if math.IsNaN(float64(l)) || math.IsInf(float64(l), 1) {
			return 0, fmt.Errorf("logit of token %d is %v: the weights or the numeric format are unfit", t, l)
		}
		if l > logits[best] {
			best = t
		}
	}
	if s.o.Temperature == 0 {
		return int32(best), nil
	}
	return s.draw(logits, float64(logits[best])), nil
}

// draw samples from softmax(logits/Temperature) over what top-k and top-p keep. most is the largest logit.
func (s *sampler) draw(logits []float32, most float64) int32 {
	s.kept = s.kept[:0]
	for t, l := range logits {
		s.kept = append(s.kept, candidate{token: int32(t), logit: float64(l)})
	}
	sorted := s.o.TopK > 0 || s.o.TopP > 0 && s.o.TopP < 1
	if sorted {
		slices.SortFunc(s.kept, func(a, b candidate) int {
			return cmp.Or(cmp.Compare(b.logit, a.logit), cmp.Compare(a.token, b.token))
		})
	}
	if s.o.TopK > 0 {
		s.kept = s.kept[:min(s.o.TopK, len(s.kept))]
	}
	var total float64
	for i := range s.kept {
		s.kept[i].p = math.Exp((s.kept[i].logit - most) / s.o.Temperature)
		total += s.kept[i].p
	}
	if s.o.TopP > 0 && s.o.TopP < 1 {
		total = s.cut(total)
	}
	at := s.rng.Float64() * total
	for _, c := range s.kept {
		if at -= c.p; at < 0 {
			return c.token
		}
	}
	return s.likeliest()
}

// likeliest is for the draw that rounding left beyond the last candidate.
func (s *sampler) likeliest() int32 {
	return slices.MaxFunc(s.kept, func(a, b candidate) int { return cmp.Compare(a.p, b.p) }).token
}

// cut keeps the likeliest of the sorted candidates up to TopP of total, and returns their sum.
func (s *sampler) cut(total float64) float64 {
	var sum float64
	for i, c := range s.kept {
		if sum += c.p; sum >= s.o.TopP*total {
			s.kept = s.kept[:i+1]
			break
		}
	}
	return sum
}
