package coordinator

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/telemetry"
)

// The tests run real processes: this binary, started again, is a worker when its first argument is "run", and a
// coordinator when it is "launch".
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "run":
			fakeWorkerMain(os.Args[2:])
			return
		case "launch":
			launchMain(os.Args[2:])
			return
		}
	}
	os.Exit(m.Run())
}

// fakeEnv tells a fake worker how to behave: words like "die=1@3" (worker 1 ends with status 7 after step 3).
const fakeEnv = "ZEROFLEET_FAKE"

func fake(word string) string {
	for _, w := range strings.Fields(os.Getenv(fakeEnv)) {
		if v, ok := strings.CutPrefix(w, word+"="); ok {
			return v
		}
	}
	return ""
}

// fakeWorkerMain is a worker that computes nothing: it keeps the protocol.
func fakeWorkerMain(args []string) {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	control, id := flags.String("control", "", ""), flags.String("id", "", "")
	if err := flags.Parse(args); err != nil {
		panic(err)
	}
	if fake("refuse") == *id {
		fmt.Fprintln(os.Stderr, "this worker does not like its job")
		os.Exit(3)
	}
	if err := fakeWorker(context.Background(), *control, *id); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func fakeWorker(ctx context.Context, control, id string) error {
	log := telemetry.Logger(os.Stderr, slog.LevelInfo)
	client, err := membership.Dial(ctx, membership.ControlFile(control), nil, log)
	if err != nil {
		return err
	}
	defer client.Close()
	assigned, err := client.FetchJob(ctx)
	if err != nil {
		return err
	}
	j, err := job.Parse("job.resolved.yaml", assigned.ResolvedYAML, nil)
	if err != nil {
		return err
	}
	endpoint, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer endpoint.Close()
	s, err := client.Register(ctx, membership.Registration{ID: id, Addr: endpoint.Addr().String(), Host: "here", Device: "cpu", PID: os.Getpid(), Threads: 1})
	if err != nil {
		return err
	}
	defer s.Close()
	s.ReportState(membership.Waiting, "", 0, nil)
	f := &fakeRun{ctx: ctx, client: client, s: s, job: j, id: id, dir: assigned.RunDir, stopAt: assigned.StopAt}
	for {
		g, err := s.Generation(ctx, f.g.Number)
		if err != nil {
			return err
		}
		f.g = g
		if _, member := g.Rank(id, s.Incarnation()); !member {
			continue
		}
		over, err := f.train()
		if err != nil || !over {
			return err
		}
	}
}

type fakeRun struct {
	ctx    context.Context
	client *membership.Client
	s      *membership.Session
	g      membership.Generation
	job    *job.Job
	id     string
	dir    string
	stopAt uint64
	held   []membership.Held // of the newest settled generation
	step   uint64
}

// over says whether the generation is, without waiting.
func (f *fakeRun) over() bool {
	ctx, cancel := context.WithTimeout(f.ctx, time.Millisecond)
	defer cancel()
	return f.s.Over(ctx, f.g.Number) != ""
}

// train is one generation. over says that the job goes on in another.
func (f *fakeRun) train() (over bool, err error) {
	rank, _ := f.g.Rank(f.id, f.s.Incarnation())
	if h := f.g.Handover; h != nil {
		f.step = uint64(h.Step)
	} else {
		f.step = 0
		if r := f.g.Restore; r != nil && !r.WeightsOnly {
			f.step = r.Step
		}
	}
	if f.g.Save {
		if err := f.checkpoint(rank, f.step); err != nil {
			return false, err
		}
		if f.g.Release {
			f.held = nil
		}
		return true, f.s.Promise(f.ctx, f.g.Number, f.held, 0, "")
	}
	if err := f.s.Settle(f.ctx, f.g.Number, 1000, 0); err != nil {
		return false, err
	}
	settled, err := f.s.Settled(f.ctx, f.g.Number)
	if err != nil {
		return false, err
	}
	if settled {
		f.held = []membership.Held{{Generation: f.g.Number, Rank: rank}}
		if over, err = f.steps(rank); err != nil || !over {
			return over, err
		}
	}
	for i := range f.held {
		f.held[i].Step = int64(f.step)
	}
	return true, f.s.Promise(f.ctx, f.g.Number, f.held, 0, "it is over")
}

func (f *fakeRun) steps(rank int) (over bool, err error) {
	print := "same bits"
	if fake("differs") == f.id {
		print = "other bits"
	}
	reference, of, err := f.s.StoreFingerprint(f.ctx, f.g.Number, rank, print)
	if err != nil {
		return false, err
	}
	if reference != print {
		return false, f.fail(0, fmt.Sprintf("computes other bits than worker %s", of))
	}
	last := uint64(f.job.Train.Steps)
	pace := 5 * time.Millisecond
	if ms, err := strconv.Atoi(fake("pace")); err == nil {
		pace = time.Duration(ms) * time.Millisecond
	}
	f.s.ReportState(membership.Training, "", f.step, map[string]int64{"parameters": 1000})
	for f.step < last {
		<-time.After(pace) // the step's work
		if f.over() {
			return true, nil
		}
		f.step++
		step := f.step
		f.s.ReportStep(&membership.StepLine{Step: step, Loss: 5 - float64(step)/100, LearningRate: 1e-3, GradNorm: 1, Tokens: 512,
			LossTokens: 512, TokensPerSecond: 1000, WorldSize: uint32(len(f.g.Members)), Generation: f.g.Number, TotalSteps: last})
		f.s.ReportState(membership.Training, "", step, nil)
		if fake("die") == fmt.Sprintf("%s@%d", f.id, step) {
			fmt.Fprintln(os.Stderr, "about to die")
			os.Exit(7)
		}
		if fake("fail") == fmt.Sprintf("%s@%d", f.id, step) {
			return false, f.fail(step, "loss is not a number in tensor model.norm.weight")
		}
		i := f.s.Instruction()
		switch {
		case i.Kind == membership.Reconfigure && i.Sequence > f.g.Handled:
			return true, nil
		case i.Kind == membership.Stop:
			return false, f.stop(rank, step, i.Why)
		case f.stopAt != 0 && step >= f.stopAt && step < last:
			return false, f.stop(rank, step, "--stop-at")
		case f.client.Lost().Seconds() > f.job.Workers.OrphanSeconds:
			return false, f.orphan(rank, step)
		case f.s.Err() != nil:
			return false, f.s.Err()
		case f.job.Checkpoint.EverySteps > 0 && step%uint64(f.job.Checkpoint.EverySteps) == 0:
			if err := f.checkpoint(rank, step); err != nil {
				return false, err
			}
		}
	}
	step := f.step
	if err := f.checkpoint(rank, step); err != nil {
		return false, err
	}
	if rank == 0 {
		f.s.ReportEvaluation(&membership.EvaluationLine{Step: step, Loss: 2, Perplexity: 7.4, LossTokens: 99})
	}
	return false, f.s.Finish(f.ctx, membership.OutcomeDone, step, "")
}

func (f *fakeRun) fail(step uint64, message string) error {
	return errors.Join(errors.New(message), f.s.Finish(f.ctx, membership.OutcomeFailed, step, message))
}

func (f *fakeRun) stop(rank int, step uint64, why string) error {
	if err := f.checkpoint(rank, step); err != nil {
		return err
	}
	return f.s.Finish(f.ctx, membership.OutcomeStopped, step, why)
}

// orphan leaves an uncommitted checkpoint and what nobody has taken.
func (f *fakeRun) orphan(rank int, step uint64) error {
	if rank == 0 {
		m, b, err := f.manifest(step)
		if err != nil {
			return err
		}
		if _, err := checkpoint.PutUncommitted(f.ctx, checkpoint.Dir(f.job.Checkpoint.Store), b); err != nil {
			return fmt.Errorf("step %d: %w", m.Step, err)
		}
	}
	out, err := os.Create(fmt.Sprintf("%s/logs/worker-%s%s", f.dir, f.id, unreportedSuffix))
	if err != nil {
		return err
	}
	defer out.Close()
	for _, e := range f.s.Unacknowledged() {
		b, err := protojson.Marshal(e)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\n", b)
	}
	return nil
}

func (f *fakeRun) checkpoint(rank int, step uint64) error {
	if rank != 0 {
		return nil
	}
	_, b, err := f.manifest(step)
	if err != nil {
		return err
	}
	committed, why, err := f.s.CommitManifest(f.ctx, b, step, f.g.Number)
	if err == nil && !committed {
		err = errors.New(why)
	}
	return err
}

// manifest writes a checkpoint of the right shape, in which every number is the step.
func (f *fakeRun) manifest(step uint64) (*checkpoint.Manifest, []byte, error) {
	config, err := spec.Preset(strings.TrimPrefix(f.job.Model.Base, spec.PresetScheme))
	if err != nil {
		return nil, nil, err
	}
	model, err := config.HuggingFace("f32")
	if err != nil {
		return nil, nil, err
	}
	m := &checkpoint.Manifest{
		Version: checkpoint.Version, Job: f.job.Name, Step: int64(step), OptimizerStep: int64(step), Generation: f.g.Number, World: 1, LossScale: 1,
		Fingerprint: "same bits", Model: model,
	}
	var ranges []checkpoint.Range
	for _, u := range config.Units() {
		unit := checkpoint.Unit{Name: u.Name, Elems: u.Elems}
		for _, t := range u.Tensors {
			unit.Tensors = append(unit.Tensors, checkpoint.Tensor{Name: t.Name, Shape: t.Shape, Offset: t.Offset})
		}
		m.Units = append(m.Units, unit)
		values := make([]float32, unit.Elems)
		for i := range values {
			values[i] = float32(step)
		}
		ranges = append(ranges, checkpoint.Range{Unit: u.Name, Fields: [checkpoint.Fields][]float32{values, values, values}})
	}
	part, err := checkpoint.WritePart(f.ctx, checkpoint.Dir(f.job.Checkpoint.Store), m, 0, ranges)
	if err != nil {
		return nil, nil, err
	}
	m.Parts = []checkpoint.Part{part}
	b, err := m.Marshal()
	return m, b, err
}
