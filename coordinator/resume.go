package coordinator

import (
	"context"
	"fmt"
	"strings"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/membership"
)

// resume makes p go on from a run or one of its checkpoints. dir is where p will run, state what is there.
func (p *prepared) resume(ctx context.Context, from, dir string, state folderState) error {
	f, err := find(from)
	if err == nil {
		err = f.newestWhole(ctx)
	}
	if err != nil {
		return bad("--resume %s: %w", from, err)
	}
	here := f.run != "" && sameFile(f.run, dir)
	if state == folderRun && !here {
		return bad("output.dir: %s holds another run than the one to resume: give another output.dir", shown(dir))
	}
	for _, d := range f.damaged {
		p.notes = append(p.notes, fmt.Sprintf("a newer checkpoint is damaged and not used: %v", d))
	}
	weightsOnly := false
	if f.job != nil {
		var changed []string
		for _, c := range job.Diff(f.job, p.resolved) {
			if !c.SameJob {
				changed = append(changed, c.String())
			}
		}
		weightsOnly = len(changed) > 0
		if weightsOnly {
			p.notes = append(p.notes, "a new job from the weights of the old one, because of "+strings.Join(changed, "; "))
		}
	}
	if weightsOnly && here {
		return bad("--resume %s: the job has changed, so this is a new one from that run's weights: give it another output.dir (%s)",
			from, strings.Join(p.notes[len(p.notes)-1:], ""))
	}
	if f.manifest == nil {
		p.notes = append(p.notes, fmt.Sprintf("%s has no checkpoint: starting from the base model at step 0", shown(f.run)))
		return nil
	}
	p.after = f.manifest.Generation
	b, err := f.manifest.Marshal()
	if err != nil {
		return fmt.Errorf("encode manifest of step %d: %w", f.manifest.Step, err)
	}
	p.restore = &membership.Restore{Store: f.store, Manifest: b, Step: uint64(f.manifest.Step), WeightsOnly: weightsOnly}
	if !weightsOnly {
		p.fingerprint = f.manifest.Fingerprint
		p.notes = append(p.notes, fmt.Sprintf("going on from the checkpoint of step %d", f.manifest.Step))
	}
	return nil
}
