// Command worker is one worker of a job: the coordinator's launcher starts it, on this machine or another one. It also
// generates text, for `coordinator generate`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/worker/text"
)

func main() {
	// A terminal's Ctrl-C is the coordinator's to handle; a SIGTERM ends this process alone.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "worker", Short: "one worker of a zerofleet job", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(runCommand(), generateCommand())
	addFaults(root)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		if errors.Is(err, text.ErrInput) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}
