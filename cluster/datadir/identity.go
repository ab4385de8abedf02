package datadir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/pki"
)

// A data directory holds these files and directories.
const (
	identityFile = "identity.json" // who the node is; the last thing Init and Join write
	stateDir     = "state"         // the store
	LogDir       = "raft"          // raft's log, term and vote
)

// Identity is who a node is, as its file says. The file is replaced as a
// whole, so that it is there or not.
type Identity struct {
	Cluster   string            `json:"cluster"`
	Name      string            `json:"name,omitempty"`
	Node      string            `json:"node"`
	Advertise string            `json:"advertise"`
	CA        string            `json:"ca"`               // PEM
	CAKey     string            `json:"ca_key,omitempty"` // PEM; only until the replicated state has it
	Cert      string            `json:"cert"`
	Key       string            `json:"key"`
	Log       string            `json:"log"`                 // names the raft log that belongs to this identity
	Fresh     bool              `json:"fresh,omitempty"`     // the log has yet to be made
	Bootstrap bool              `json:"bootstrap,omitempty"` // and begins the cluster
	Peers     map[string]string `json:"peers,omitempty"`     // addresses known at the time of joining, or of recovery
	Joined    uint64            `json:"joined,omitempty"`    // index up to which records of the id are of an earlier node

	Generation string            `json:"generation,omitempty"` // the cluster's name in certificates; empty: Cluster
	Recovered  []string          `json:"recovered,omitempty"`  // ID=ADDRESS of the peers of this node's last recovery
	Outcasts   map[string]string `json:"outcasts,omitempty"`   // who was left behind, and the address

	CANext  string `json:"ca_next,omitempty"`  // PEM; trusted, too, while the CA changes
	CACross string `json:"ca_cross,omitempty"` // PEM; for those who know the CA before only

	Seal []SealKey `json:"seal,omitempty"` // for secrets in the replicated state, the newest first

	mu sync.Mutex // guards what changes while the node runs: the credential, CAKey, Seal
}

// Credential is what the node shows and trusts now.
func (id *Identity) Credential() pki.Credential {
	id.mu.Lock()
	defer id.mu.Unlock()
	return pki.Credential{CA: id.CA, Next: id.CANext, Cross: id.CACross, Cert: id.Cert, Key: id.Key}
}

// Change takes another credential; Save brings it to the disk.
func (id *Identity) Change(c pki.Credential) {
	id.mu.Lock()
	defer id.mu.Unlock()
	id.CA, id.CANext, id.CACross, id.Cert, id.Key = c.CA, c.Next, c.Cross, c.Cert, c.Key
}

// Initialised reports whether a directory holds a node's identity: whether
// Open can open it.
func Initialised(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, identityFile))
	return err == nil
}

// CheckNode returns ErrOtherNode where a directory holds a node with another
// id, and nil where it holds none.
func CheckNode(dir, id string) error {
	if !Initialised(dir) {
		return nil
	}
	have, err := Load(dir)
	if err != nil {
		return err
	}
	return have.isNode(id, dir)
}

// Load reads the identity of a data directory. ErrNoNode: there is none.
func Load(dir string) (*Identity, error) {
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (%s)", fault.ErrNoNode, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	id := &Identity{}
	if err := json.Unmarshal(b, id); err != nil {
		return nil, fmt.Errorf("cluster: %s is damaged: %w", filepath.Join(dir, identityFile), err)
	}
	return id, nil
}

// Save writes the identity so that after a crash there is the old one or the
// new one.
func (id *Identity) Save(dir string) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, identityFile), append(b, '\n'))
}

// ForgetKey takes the CA's key out of the file: the replicated state has it.
func (id *Identity) ForgetKey(dir string, log *zap.Logger) {
	id.mu.Lock()
	id.CAKey = ""
	id.mu.Unlock()
	if err := id.Save(dir); err != nil {
		log.Warn("cluster: the CA key stays in the identity file", zap.Error(err))
	}
}

// Wire makes the TLS side of an identity.
func (id *Identity) Wire() (wire.Identity, error) {
	return id.Credential().Wire(id.CertName(), id.Node)
}

// Vacant checks that a directory can take a new node, and makes it.
func Vacant(dir string) error {
	if Initialised(dir) {
		id, err := Load(dir)
		if err != nil {
			return fmt.Errorf("%w: %w", fault.ErrInUse, err)
		}
		return fmt.Errorf("%w: %s is node %s of cluster %s: start it with 'relayd run'", fault.ErrInUse, dir, id.Node,
			id.Cluster)
	}
	for _, sub := range []string{stateDir, LogDir} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cluster: %w", err)
		}
		if len(entries) > 0 {
			return fmt.Errorf("%w: %s holds the data of a node whose %s is gone: restore that file, or choose an "+
				"empty directory",
				fault.ErrInUse, filepath.Join(dir, sub), identityFile)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return tryDisk(dir)
}

// tryDisk checks that a directory takes writes.
func tryDisk(dir string) error {
	f, err := os.CreateTemp(dir, ".try-*")
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	_, err = f.WriteString("try\n")
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// isNode checks that the configured node id, where one is given, is the one of
// the data directory.
func (id *Identity) isNode(want, dir string) error {
	if want == "" || want == id.Node {
		return nil
	}
	return fmt.Errorf("%w: [node] id is %s, but %s is node %s's: correct [node] id or [node] data_dir", fault.ErrOtherNode,
		want, dir, id.Node)
}

// logName is where the log says whose it is.
var logName = []byte("relay-log")

// Settle ties the raft log to the identity, and begins the cluster where that
// is still to do. A node must never run with another log than it began with:
// it would vote without knowing what it promised.
func (id *Identity) Settle(dir string, stable raft.StableStore, bootstrap func() error) error {
	have, err := stable.Get(logName)
	if err != nil && err.Error() != "not found" {
		return fmt.Errorf("cluster: read the log's name: %w", err)
	}
	switch {
	case len(have) == 0 && !id.Fresh:
		return fmt.Errorf("%w: move %s away and join again with 'relayd join' and a token of 'relayctl node token'",
			fault.ErrLogLost, dir)
	case len(have) > 0 && !bytes.Equal(have, []byte(id.Log)):
		return fmt.Errorf("%w: %s belongs to another identity than %s", fault.ErrLogLost, filepath.Join(dir, LogDir),
			identityFile)
	case !id.Fresh:
		return nil
	}
	if id.Bootstrap {
		if err := bootstrap(); err != nil {
			return err
		}
	}
	if len(have) == 0 {
		if err := stable.Set(logName, []byte(id.Log)); err != nil {
			return fmt.Errorf("cluster: name the log: %w", err)
		}
	}
	id.Fresh, id.Bootstrap = false, false
	return id.Save(dir)
}

// WriteFile replaces a file as a whole and makes that last.
func WriteFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if bad := f.Close(); err == nil {
		err = bad
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
