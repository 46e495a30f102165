// Command worker is one worker of a job: the coordinator's launcher starts it, on this machine or another one. It also
// generates text, for `coordinator generate`.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/worker/text"
)

func main() {
	root := &cobra.Command{Use: "worker", Short: "one worker of a zerofleet job", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(runCommand(), joinCommand(), generateCommand())
	addFaults(root)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		if _, _, unknown := root.Find(os.Args[1:]); unknown != nil || errors.Is(err, text.ErrInput) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// usage is a command line that is wrong.
func usage(err error) error { return fmt.Errorf("%w: %w", text.ErrInput, err) }

func noArguments(c *cobra.Command, given []string) error {
	if len(given) > 0 {
		return usage(fmt.Errorf("%s takes no argument, got %q", c.CommandPath(), given[0]))
	}
	return nil
}
