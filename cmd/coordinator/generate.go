package main

import (
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func generateCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "generate --model MODEL --prompt TEXT",
		Short:              "go on with a text, or answer in a chat (see worker generate --help)",
		DisableFlagParsing: true, // the flags are the worker's, which computes
		RunE: func(_ *cobra.Command, given []string) error {
			program, err := coordinator.WorkerProgram()
			if err != nil {
				return err
			}
			err = syscall.Exec(program, append([]string{program, "generate"}, given...), os.Environ())
			return fmt.Errorf("run %s: %w", program, err)
		},
	}
}
