package maildrop

import (
	"context"
	"fmt"
	"io"

	pb "relay/cluster/spool/spoolpb"
	"relay/node/config"
	"relay/node/folder"
	"relay/pop3"
)

// folders are the folders of this node's configuration, by the account in whose
// place they are shown.
func folders(list []config.Folder) map[string]*folder.Folder {
	all := map[string]*folder.Folder{}
	for _, one := range list {
		all[one.User] = folder.Open(one.Dir)
	}
	return all
}

// enter is take for a user whose maildrop may be a folder.
func (d *Service) enter(ctx context.Context, a *pb.Account, p *pop3.Peer, wake bool) (pop3.Maildrop, error) {
	m, err := d.take(ctx, a, p, wake)
	if err != nil {
		return nil, err
	}
	f := d.folders[a.Address]
	if f == nil {
		return m, nil
	}
	list, err := f.List(ctx)
	if err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("the folder of %s: %w", a.Address, err)
	}
	return &folderDrop{m, list}, nil
}

// folderDrop shows a folder under the lock of an account. It has no name for the
// lock's other powers: a file that came later is in the next list.
type folderDrop struct {
	lock *maildrop
	list *folder.List
}

// List implements pop3.Maildrop.
func (f *folderDrop) List() pop3.List { return f.list }

// Open implements pop3.Maildrop.
func (f *folderDrop) Open(_ context.Context, i int) (io.ReadCloser, error) { return f.list.Open(i) }

// Commit implements pop3.Maildrop. Nothing can be deleted.
func (f *folderDrop) Commit(ctx context.Context, deleted []int, release bool) error {
	if len(deleted) > 0 {
		return pop3.ErrReadOnly
	}
	return f.lock.Commit(ctx, nil, release)
}

// Close implements pop3.Maildrop.
func (f *folderDrop) Close() error { return f.lock.Close() }

// OnLost implements pop3.Maildrop.
func (f *folderDrop) OnLost(fn func(why string)) { f.lock.OnLost(fn) }

// Wake implements pop3.Maildrop.
func (f *folderDrop) Wake(ctx context.Context) (pop3.Maildrop, error) { return f.lock.Wake(ctx) }

// Info implements pop3.Maildrop: the server deletes nothing here.
func (f *folderDrop) Info() pop3.Info {
	info := f.lock.Info()
	info.ReadOnly, info.Retention = true, &pop3.Retention{Announce: true, Never: true}
	return info
}
