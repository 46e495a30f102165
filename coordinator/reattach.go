package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
)

// reattach goes on with a run whose coordinator has ended and whose workers have not. attached is false, and err nil,
// when the folder was made but no run begun in it.
func reattach(ctx context.Context, o Options, dir string, view *feed) (attached bool, exit int, err error) {
	folder, err := openRunFolder(dir)
	if err != nil {
		return false, 0, err
	}
	r, err := open(ctx, folder)
	defer func() { err = errors.Join(err, r.close(), folder.close()) }()
	if err != nil || r.view.Run.Dir == "" {
		return false, 0, err
	}
	living, err := living(r.view)
	if err != nil {
		return false, 0, err
	}
	if r.view.Run.Listen != "" {
		living += guests(r.view, r.view.Registrations)
	}
	switch {
	case r.view.Outcome != nil:
		return false, 0, bad("%s holds a run that is %s; %s", shown(dir), r.view.Outcome.State, again(r.view.Run))
	case living == 0:
		events, err := r.events()
		if err == nil && !events.behind(r.view) { // otherwise some may live that etcd does not know
			err = allEnded(r.view.Run)
		}
		if err != nil {
			return false, 0, err
		}
	}
	if err := sameRun(o, r.view.Run); err != nil {
		return false, 0, err
	}
	if r.view.Run.Listen != "" && (o.Listen == "" || o.Listen == r.view.Run.Listen) {
		i, err := membership.ReadInvitation(folder.path("join.token"))
		if err != nil {
			return false, 0, err
		}
		o.Listen = i.Addr // where those who have joined look for it
	}
	l, err := listen(o.Listen)
	if err != nil {
		return false, 0, err
	}
	note := fmt.Sprintf("going on with the run in %s: %d workers live", shown(dir), living)
	exit, err = r.serve(ctx, o, l, view, []string{note}, true)
	return true, exit, err
}

// again says how to use a run's folder once more, the last line to copy.
func again(run store.Run) string {
	return "for another run give another output.dir; to go on from its newest checkpoint:\n" + resumeLine(run)
}

func allEnded(run store.Run) error {
	return bad("%s holds a run whose processes have all ended; %s", shown(run.Dir), again(run))
}

// events reads what the run's events tell of.
func (r *run) events() (t testimony, err error) {
	view := newFeed(nothing{})
	defer func() { err = errors.Join(err, view.close()) }()
	rec, err := openRecord(r.folder, 0, r.view.Run.After, view, r.log)
	if err != nil {
		return testimony{}, err
	}
	return rec.testimony(), rec.close()
}

// living is how many of a run's processes live.
func living(v store.View) (n int, err error) {
	for _, p := range v.Processes {
		running, err := runs(p.PID, p.Start)
		if err != nil {
			return 0, err
		}
		if running && !p.Exited {
			n++
		}
	}
	return n, nil
}

// guests are those of some workers that were not launched here, and have neither finished nor left. Of the registrations they
// are those that may be alive: nobody has said that they are not.
func guests(v store.View, of map[string]store.Worker) (n int) {
	for id, w := range of {
		p, launched := v.Processes[id]
		f, finished := v.Finished[id]
		if !w.Removed && (!launched || p.PID != w.PID) && (!finished || f.Incarnation != w.Incarnation) {
			n++
		}
	}
	return n
}

// sameRun refuses to take up a living run under options that it was not started with: they could not take effect.
func sameRun(o Options, run store.Run) error {
	was, err := job.Parse("job.resolved.yaml", run.ResolvedYAML, nil)
	if err != nil {
		return fmt.Errorf("read the living run's job: %w", err)
	}
	j, err := job.Load(o.JobFile, o.Set)
	if err != nil {
		return err
	}
	pins := was.Resolved
	if pins == nil {
		return errors.New("read the living run's job: it has no digests")
	}
	is, err := job.Resolve(j, job.Digests{Model: pins.Model, Tokenizer: pins.Tokenizer, Train: pins.Train, Eval: pins.Eval})
	if err != nil {
		return bad("%s is still running with another job: %w", shown(run.Dir), err)
	}
	stage, _ := was.Sharding.Stage.Number() // what the plan was asked for is settled in a resolved job
	recompute, _ := was.Train.GradientCheckpointing.Bool()
	is = is.Settle(stage, recompute)
	var changed []string
	for _, c := range job.Diff(&job.Resolved{Job: *was}, is) {
		changed = append(changed, c.String())
	}
	if len(changed) > 0 {
		return bad("%s is still running with another job (%s): stop it first", shown(run.Dir), strings.Join(changed, "; "))
	}
	if o.StopAt != 0 && o.StopAt != run.StopAt {
		return bad("%s is still running, and was not started with --stop-at %d: stop it first", shown(run.Dir), o.StopAt)
	}
	return nil
}
