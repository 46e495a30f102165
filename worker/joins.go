package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/worker/inputs"
)

const (
	// greetPatience is how long a worker that joins waits for a coordinator to come up, greetEvery how often it looks.
	greetPatience = 30 * time.Second
	greetEvery    = 500 * time.Millisecond
)

// Greet waits until the job's coordinator is there, for half a minute, and fails at once when somebody else is.
func Greet(ctx context.Context, at membership.Endpoint, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, greetPatience)
	defer cancel()
	every := time.NewTicker(greetEvery)
	defer every.Stop()
	for said := false; ; {
		err := at.Greet(ctx)
		if err == nil || errors.Is(err, membership.ErrAnother) {
			return err
		}
		if !said {
			log.Info("waiting for the coordinator", "addr", at.Addr, "error", err)
			said = true
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return fmt.Errorf("no coordinator at %s: %w", at.Addr, err)
		}
	}
}

// comparable refuses what would make this worker compute something else than the others, or write where nobody reads: its
// sources must hold what the job was submitted with, and a folder of checkpoints must be the coordinator's.
// Where the coordinator's run folder is seen, relative paths are its.
func comparable(ctx context.Context, locate membership.Locator, assigned membership.Job, j *job.Job) error {
	at, err := locate()
	if err != nil {
		return err
	}
	there, err := membership.ReadControl(filepath.Join(assigned.RunDir, "control.json"))
	switch {
	case err == nil && there.Token == at.Token:
		if err := os.Chdir(assigned.WorkDir); err != nil {
			return fmt.Errorf("enter the coordinator's working directory: %w", err)
		}
	case !strings.Contains(j.Checkpoint.Store, "://"):
		return fmt.Errorf("checkpoint.store: %s is a folder of the coordinator's machine, and this one does not see its run folder %s: "+
			"workers of several machines need a bucket (s3://, gs://, azblob://) or a shared file system", j.Checkpoint.Store, assigned.RunDir)
	}
	digests, field, err := inputs.Digests(ctx, j)
	if err != nil {
		return j.Fault(field, "%v", err)
	}
	_, err = job.Resolve(j, digests)
	return err
}
