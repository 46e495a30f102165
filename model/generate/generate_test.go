package generate

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// script is a Model that prefers given tokens, one after the other, whatever it is extended by.
type script struct {
	vocab, room int
	next        []int32
	calls       [][]int32
	fail        error
}

func (s *script) Vocab() int { return s.vocab }
func (s *script) Room() int  { return s.room }

func (s *script) Extend(_ context.Context, tokens []int32) ([]float32, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	s.room -= len(tokens)
	s.calls = append(s.calls, slices.Clone(tokens))
	logits := make([]float32, s.vocab)
	logits[s.next[len(s.calls)-1]] = 5
	return logits, nil
}

// letters is a Text in which token i is the i-th byte; '~' completes nothing and is held back until the next token.
type letters struct {
	alphabet string
	held     string
}

func (l *letters) Push(t int32) string {
	l.held += l.alphabet[t : t+1]
	if strings.HasSuffix(l.held, "~") {
		return ""
	}
	return l.Flush()
}

func (l *letters) Flush() string {
	out := l.held
	l.held = ""
	return out
}

const alphabet = "abcdefgh~$"

func tokens(text string) []int32 {
	var ids []int32
	for _, c := range text {
		ids = append(ids, int32(strings.IndexRune(alphabet, c)))
	}
	return ids
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name    string
		says    string // what the model prefers
		o       Options
		room    int
		want    string
		pieces  int
		reason  Reason
		nTokens int
	}{
		{"until the limit", "abcabc", Options{MaxTokens: 4}, 99, "abca", 4, MaxTokens, 4},
		{"until the end token", "ab$c", Options{MaxTokens: 9, End: tokens("$")}, 99, "ab", 2, EndToken, 3},
		{"until a stop string across tokens", "abcde", Options{MaxTokens: 9, Stop: []string{"xx", "cd"}}, 99, "ab", 2, StopString, 4},
		{"the first of two stop strings", "abcde", Options{MaxTokens: 9, Stop: []string{"d", "bcd"}}, 99, "a", 1, StopString, 4},
		{"a stop string that does not come", "abcab", Options{MaxTokens: 5, Stop: []string{"abd"}}, 99, "abcab", 2, MaxTokens, 5},
		{"held bytes at the end", "ab~", Options{MaxTokens: 3}, 99, "ab~", 3, MaxTokens, 3},
		{"a stop string in held bytes", "ab~$", Options{MaxTokens: 9, Stop: []string{"~"}, End: tokens("$")}, 99, "ab", 2, EndToken, 4},
		{"until the room is full", "abcdef", Options{MaxTokens: 9}, 5, "abcd", 4, NoRoom, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &script{vocab: len(alphabet), room: c.room, next: tokens(c.says)}
			var pieces []string
			r, err := Run(t.Context(), m, &letters{alphabet: alphabet}, tokens("hg"), c.o, func(s string) error {
				pieces = append(pieces, s)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(pieces, ""); got != c.want || len(pieces) != c.pieces {
				t.Errorf("pieces %q, want %q in %d", pieces, c.want, c.pieces)
			}
			if r.Reason != c.reason || len(r.Tokens) != c.nTokens {
				t.Errorf("%d tokens, %q; want %d, %q", len(r.Tokens), r.Reason, c.nTokens, c.reason)
			}
			if !slices.Equal(m.calls[0], tokens("hg")) || len(m.calls) > 1 && !slices.Equal(m.calls[1], r.Tokens[:1]) {
				t.Errorf("the model was extended by %v", m.calls)
			}
		})
	}
}

func TestRunErrors(t *testing.T) {
	fault := errors.New("fault")
	ok := Options{MaxTokens: 3}
	for _, c := range []struct {
		name   string
		m      *script
		prompt []int32
		o      Options
		emit   error
		want   string
	}{
		{"bad options", &script{vocab: 10, room: 9}, tokens("a"), Options{TopP: 2, Temperature: -1, TopK: -1, RepetitionPenalty: math.Inf(1), Stop: []string{""}}, nil, "max tokens 0: want at least 1\ntemperature -1"},
		{"no prompt", &script{vocab: 10, room: 9}, nil, ok, nil, "a prompt of 0 tokens: want 1 to 9"},
		{"long prompt", &script{vocab: 10, room: 1}, tokens("ab"), ok, nil, "a prompt of 2 tokens: want 1 to 1"},
		{"token outside", &script{vocab: 10, room: 9}, []int32{1, 10}, ok, nil, "prompt token 1 is 10: not in the vocabulary of 10"},
		{"the model fails", &script{vocab: 10, room: 9, fail: fault}, tokens("a"), ok, nil, "generate token 0: fault"},
		{"the reader fails", &script{vocab: 10, room: 9, next: tokens("abc")}, tokens("a"), ok, fault, "fault"},
	} {
		_, err := Run(t.Context(), c.m, &letters{alphabet: alphabet}, c.prompt, c.o, func(string) error { return c.emit })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

// What the stopper lets through, put together, is the text up to the first stop string, however the text is cut.
func TestStopper(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching("[ab]{0,20}").Draw(t, "text")
		stops := rapid.SliceOfN(rapid.StringMatching("[ab]{1,4}"), 0, 3).Draw(t, "stops")
		want, found := text, false
		for end := range len(text) + 1 { // the stop string that is complete first
			for _, s := range stops {
				if i := strings.Index(text[:end], s); i >= 0 && (!found || i < len(want)) {
					want, found = text[:i], true
				}
			}
			if found {
				break
			}
		}
		s := &stopper{stops: stops}
		var got string
		stopped := false
		for i := 0; i < len(text) && !stopped; i++ {
			var out string
			out, stopped = s.push(text[i : i+1])
			got += out
		}
		if !stopped {
			got += s.flush()
		}
		if got != want || stopped != found {
			t.Fatalf("got %q, stopped %v; want %q, %v", got, stopped, want, found)
		}
	})
}

func sample(t *testing.T, o Options, logits []float32, seen ...int32) int32 {
	t.Helper()
	s := newSampler(o, len(logits))
	for _, token := range seen {
		s.saw(token)
	}
	token, err := s.next(slices.Clone(logits))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestGreedy(t *testing.T) {
	inf := float32(math.Inf(-1))
	for _, c := range []struct {
		name    string
		logits  []float32
		penalty float64
		seen    []int32
		want    int32
	}{
		{"largest", []float32{1, 3, 2}, 0, nil, 1},
		{"a tie goes to the lower", []float32{1, 3, 3}, 0, nil, 1},
		{"minus infinity", []float32{inf, inf, -9}, 0, nil, 2},
		{"penalty on a positive logit", []float32{1, 3, 2}, 2, []int32{1}, 2},
		{"penalty on a negative logit", []float32{-3, -2, -5}, 2, []int32{1}, 0},
		{"penalty of one", []float32{1, 3, 2}, 1, []int32{1}, 1},
	} {
		if got := sample(t, Options{RepetitionPenalty: c.penalty}, c.logits, c.seen...); got != c.want {
			t.Errorf("%s: token %d, want %d", c.name, got, c.want)
		}
	}
	if _, err := newSampler(Options{}, 2).next([]float32{0, float32(math.NaN())}); err == nil || !strings.Contains(err.Error(), "logit of token 1 is NaN") {
		t.Errorf("NaN: error %v", err)
	}
	if _, err := newSampler(Options{}, 3).next([]float32{0, 1}); err == nil {
		t.Error("two logits for three tokens: no error")
	}
}

// Draws are distributed as softmax(logits/temperature) over what top-k and top-p keep. With n = 20000
// draws a frequency has standard deviation at most 1/(2 sqrt(n)) = 0.0035; five of them are allowed.
func TestSampleDistribution(t *testing.T) {
	const n = 20000
	logits := []float32{0, 1, 2, 3} // softmax: 0.032, 0.087, 0.237, 0.644
	for _, c := range []struct {
		name string
		o    Options
		keep []int
	}{
		{"all", Options{Temperature: 1}, []int{0, 1, 2, 3}},
		{"hot", Options{Temperature: 3}, []int{0, 1, 2, 3}},
		{"two likeliest", Options{Temperature: 1, TopK: 2}, []int{2, 3}},
		{"more than there are", Options{Temperature: 1, TopK: 9}, []int{0, 1, 2, 3}},
		{"up to 0.7", Options{Temperature: 1, TopP: 0.7}, []int{2, 3}},
		{"up to less than the likeliest", Options{Temperature: 1, TopP: 0.1}, []int{3}},
		{"both", Options{Temperature: 1, TopK: 3, TopP: 0.8}, []int{2, 3}},
	} {
		s := newSampler(c.o, len(logits))
		counts := make([]float64, len(logits))
		for range n {
			token, err := s.next(slices.Clone(logits))
			if err != nil {
				t.Fatal(err)
			}
			counts[token]++
		}
		var total float64
		for _, k := range c.keep {
			total += math.Exp(float64(logits[k]) / c.o.Temperature)
		}
		for k := range logits {
			want := 0.0
			if slices.Contains(c.keep, k) {
				want = math.Exp(float64(logits[k])/c.o.Temperature) / total
			}
			if got := counts[k] / n; math.Abs(got-want) > 0.0177 || want == 0 && got > 0 {
				t.Errorf("%s: token %d drawn %.4f of the time, want %.4f", c.name, k, got, want)
			}
		}
	}
}

// The same seed draws the same tokens, another one others.
func TestSeed(t *testing.T) {
	draw := func(seed uint64) []int32 {
		s := newSampler(Options{Temperature: 1, Seed: seed}, 100)
		var out []int32
		for range 20 {
			token, err := s.next(make([]float32, 100))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, token)
		}
		return out
	}
	if !slices.Equal(draw(7), draw(7)) {
		t.Error("seed 7 drew two sequences")
	}
	if slices.Equal(draw(7), draw(8)) {
		t.Error("seeds 7 and 8 drew one sequence")
	}
}
