// Command coordinator launches jobs and looks after their runs.
//
// Output rules: results go to standard output, everything else to standard error; an error is one line that starts with
// "coordinator: ", or one for each fault of a job file. Exit status 0 is done, 1 failed, 2 bad input, 130 interrupted
// with a checkpoint kept.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole command; it returns the exit status.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	root := &cobra.Command{
		Use:               "coordinator",
		Short:             "fine-tune language models across machines that can disappear",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage{err} })
	root.AddCommand(
		launchCommand(), planCommand(), statusCommand(), whyCommand(), traceCommand(), hashCommand(), checkpointsCommand(), exportCommand(),
		dataCommand(), generateCommand(), chaosCommand(), checkpointCommand(), cancelCommand(), resizeCommand(), suspendCommand(), resumeCommand(), schemaCommand(), versionCommand(),
	)
	err := root.ExecuteContext(ctx)
	var exit exitStatus
	switch {
	case err == nil:
		return coordinator.ExitDone
	case errors.As(err, &exit):
		if exit.err != nil {
			fmt.Fprintln(errs, "coordinator:", exit.err)
		}
		return exit.status
	}
	fmt.Fprintln(errs, "coordinator:", err)
	var u usage
	if errors.As(err, &u) || coordinator.IsBadInput(err) || isUnknownCommand(root, args) {
		return coordinator.ExitBadInput
	}
	return coordinator.ExitFailed
}

// usage is a command line that is wrong.
type usage struct{ err error }

func (u usage) Error() string { return u.err.Error() }
func (u usage) Unwrap() error { return u.err }

// args makes a wrong number of arguments a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		if err := check(c, given); err != nil {
			return usage{fmt.Errorf("%s: %w", c.CommandPath(), err)}
		}
		return nil
	}
}

func isUnknownCommand(root *cobra.Command, given []string) bool {
	_, _, err := root.Find(given)
	return err != nil
}

// exitStatus ends the command with a status of its own; err may be nil.
type exitStatus struct {
	status int
	err    error
}

func (e exitStatus) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e exitStatus) Unwrap() error { return e.err }

// group is a command that only holds others.
func group(use, short string, under ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: args(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error {
		return usage{fmt.Errorf("%s needs one of its commands: see %s --help", c.CommandPath(), c.CommandPath())}
	}}
	c.AddCommand(under...)
	return c
}

// outputFlag adds -o, which is text or json.
func outputFlag(c *cobra.Command) func() (json bool, err error) {
	form := c.Flags().StringP("output", "o", "text", "text or json")
	return func() (bool, error) {
		switch *form {
		case "text":
			return false, nil
		case "json":
			return true, nil
		}
		return false, usage{fmt.Errorf("--output %q: want text or json", *form)}
	}
}

// setFlag adds --set.
func setFlag(c *cobra.Command) *[]string {
	return c.Flags().StringArray("set", nil, "a.b=value: lay a value over the job file; may be given several times")
}
