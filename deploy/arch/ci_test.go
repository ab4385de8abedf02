package arch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRepeatedTestsMustPass: .ci/run repeats tests of whole programs that failed, and
// takes the change only where each of them passes then. One that is skipped has not.
func TestRepeatedTestsMustPass(t *testing.T) {
	const failed = "=== RUN   TestA\n--- FAIL: TestA (1s)\n=== RUN   TestB\n--- PASS: TestB (1s)\nFAIL\n"
	for name, c := range map[string]struct {
		first, again string // what go test prints
		fails        string // which of the runs end with a status
		passed       bool
	}{
		"all pass":        {"=== RUN   TestA\n--- PASS: TestA (1s)\nok\n", "", "", true},
		"passes then":     {failed, "=== RUN   TestA\n--- PASS: TestA (1s)\nok\n", "1", true},
		"fails again":     {failed, "=== RUN   TestA\n--- FAIL: TestA (1s)\nFAIL\n", "1 2", false},
		"is skipped then": {failed, "=== RUN   TestA\n--- SKIP: TestA (1s)\nok\n", "1", false},
		"is gone then":    {failed, "testing: warning: no tests to run\nok\n", "1", false},
		"died": {"=== RUN   TestB\n=== RUN   TestA\n--- FAIL: TestA (1s)\npanic: x\n",
			"=== RUN   TestA\n--- PASS: TestA (1s)\nok\n", "1", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, text := range map[string]string{
				"1": c.first, "2": c.again, "fails": c.fails,
				"go": `#!/bin/sh
cd "$(dirname "$0")" && echo >>runs
n=$(wc -l <runs | tr -d ' ')
cat "$n"
! grep -q "$n" fails
`,
			} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700))
			}
			out, err := endToEnd(t, dir)
			require.Equal(t, c.passed, err == nil, "%s", out)
		})
	}
}

// endToEnd runs that step of .ci/run with the program go that is in dir.
func endToEnd(t *testing.T, dir string) ([]byte, error) {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	script, err := filepath.Abs("../../.ci/run")
	require.NoError(t, err)
	text, err := os.ReadFile(script)
	require.NoError(t, err)
	functions, _, ok := strings.Cut(string(text), "\nstep ")
	require.True(t, ok)
	cmd := exec.CommandContext(t.Context(), bash, "-c", functions+"\nstep endtoend", script)
	cmd.Env = append(os.Environ(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return cmd.CombinedOutput()
}
