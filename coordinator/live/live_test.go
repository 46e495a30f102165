package live

import (
	"bytes"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zerofleet/zerofleet/coordinator"
	"github.com/zerofleet/zerofleet/membership"
	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

func TestPicture(t *testing.T) {
	s := screen{width: 72}
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 40 {
		s.step(&membership.StepLine{Step: uint64(i + 1), TotalSteps: 100, Loss: 4 - float64(i)*0.05, LearningRate: 2e-5, GradNorm: 1.25,
			TokensPerSecond: 512}, start.Add(time.Duration(i)*2*time.Second))
	}
	s.evaluations = []*membership.EvaluationLine{{Step: 0, Perplexity: 60}, {Step: 40, Perplexity: 30.5}}
	s.status = &coordinator.Status{Job: "tiny", State: "training", Generation: 1, RunDir: "runs/tiny", Workers: []*zerofleetv1.WorkerStatus{
		{Id: "w0", Rank: 0, Pid: 4711, Phase: membership.Training, Step: 40, MemoryBytes: map[string]int64{"parameters": 3 << 20, "optimizer": 1 << 20}},
		{Id: "w1", Rank: -1, Pid: 4712, Phase: membership.Loading}}}
	for i, what := range []string{"one", "two", "three", "four"} {
		s.event(coordinator.Event{Time: start.Add(time.Duration(i) * time.Second), What: what})
	}
	const want = `tiny · training · generation 1 · runs/tiny
███████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░ step 40/100 · 2m0s left
loss 2.0500 · lr 2e-05 · grad norm 1.25 · 512 tokens/s
held out: perplexity 60.00 after step 0, 30.50 after step 40
  4.000 ┤█▇▆▄▃▂▁
        │███████▇▆▅▄▂▁
        │██████████████▇▆▄▃▂▁
        │████████████████████▇▆▅▄▂▁
        │███████████████████████████▇▆▄▃▂▁
  2.050 ┤█████████████████████████████████▇▆▅▄▂▁▁

worker       rank      pid state            step     memory
w0              0     4711 training           40    4.0 MiB
w1              -     4712 loading             0    0.0 KiB
03:04:06  two
03:04:07  three
03:04:08  four
`
	got := s.render()
	if normalise(got) != normalise(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, line := range strings.Split(got, "\n") {
		if n := len([]rune(line)); n > 72 {
			t.Errorf("a line of %d columns in a terminal of 72: %q", n, line)
		}
	}
}

// normalise drops spaces at the ends of lines.
func normalise(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func TestCurveOfWhatIsNotFinite(t *testing.T) {
	if got := curve([]float64{math.NaN(), math.Inf(1)}, 80, 3); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
	if got := curve([]float64{1, math.NaN(), 1}, 80, 3); !strings.Contains(got, "1.000") {
		t.Errorf("got %q, want the finite value", got)
	}
}

type terminal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *terminal) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(b)
}

func TestTheLastPictureStays(t *testing.T) {
	defer goleak.VerifyNone(t)
	var out terminal
	v := New(&out)
	v.Step(&membership.StepLine{Step: 7, TotalSteps: 9, Loss: 1.5})
	v.Status(&coordinator.Status{Job: "tiny", State: "done"})
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if got := out.b.String(); !strings.Contains(got, "step 7/9") || !strings.Contains(got, "done") {
		t.Errorf("the terminal shows %q", got)
	}
}

var _ coordinator.View = (*View)(nil)
