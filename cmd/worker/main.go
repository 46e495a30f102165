// Command worker is one worker of a job: the coordinator's launcher starts it, on this machine or another one. It also
// generates text, for `coordinator generate`.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	// A terminal's Ctrl-C is the coordinator's to handle; a SIGTERM ends this process alone.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "worker", Short: "one worker of a zerofleet job", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(runCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}
