package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Both programs, as they are built, say a semantic version.
func TestProgramsSayASemanticVersion(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to run the end-to-end tests")
	}
	bin, err := binaries()
	require.NoError(t, err)
	for _, program := range []string{"relayd", "relayctl"} {
		out, err := exec.Command(filepath.Join(bin, program), "version").CombinedOutput()
		require.NoError(t, err, string(out))
		require.Regexp(t, `(?m)^`+program+` \d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?( |$)`, string(out))
	}
}
