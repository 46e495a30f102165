package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/zerofleet/zerofleet/job"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/kernels/cuda"
)

// openBackend opens what computes: the GPU when the job asks for one, or when device is auto and there is a library and a GPU.
func openBackend(j *job.Job, id string, log *slog.Logger) (kernels.Backend, error) {
	if j.Workers.Device != "cpu" {
		b, err := cuda.Open(cuda.Options{Device: localRank(id)})
		if err == nil {
			total, free := b.MemoryBytes()
			log.Info("computing on a GPU", "device", b.Device(), "isa", b.Caps().ISA, "products", b.Caps().Products,
				"memory_bytes", total, "free_bytes", free)
			return b, nil
		}
		if j.Workers.Device == "cuda" {
			return nil, fmt.Errorf("workers.device: cuda: %w", err)
		}
		if !errors.Is(err, cuda.ErrNone) {
			log.Warn("computing on the CPU", "why", err)
		}
	}
	return cpu.Open(cpu.Options{Threads: j.Workers.Threads})
}

// localRank is which GPU of its machine worker id takes: the launcher numbers the workers of a machine from 0. An id that is no
// number takes the first.
func localRank(id string) int {
	n, err := strconv.Atoi(id)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// deviceWord is what openBackend will open, as the coordinator shows it: a worker registers before it does.
func deviceWord(j *job.Job, id string) string {
	if j.Workers.Device != "cpu" {
		if n, err := cuda.Count(""); err == nil {
			return fmt.Sprintf("cuda:%d", localRank(id)%n)
		}
	}
	return "cpu"
}
