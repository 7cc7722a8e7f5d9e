// Many clients of centrifuge-go in one process: they say when each of them is told to go, and when all are back.
//
//	crowd ADDRESS TOKEN COUNT     on each line {"what", "code"?, "at"?}: ms since the beginning
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

type crowd struct {
	sync.Mutex
	began            time.Time
	count, connected int
}

// change counts those that are connected, and says a line: `all` where all are.
func (c *crowd) change(by int, what string, code uint32) {
	c.Lock()
	defer c.Unlock()
	c.connected += by
	if by > 0 && c.connected < c.count {
		return
	}
	at := float64(time.Since(c.began).Microseconds()) / 1000
	line, err := json.Marshal(map[string]any{"what": what, "code": code, "at": at})
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func main() {
	address, token := os.Args[1], os.Args[2]
	count, err := strconv.Atoi(os.Args[3])
	if err != nil {
		panic(err)
	}
	all := &crowd{began: time.Now(), count: count}
	for range count {
		// What is waited for are the clients, not a machine that is busy with other tests.
		patient := 60 * time.Second
		client := centrifuge.NewJsonClient(address, centrifuge.Config{
			Token: token, MaxReconnectDelay: 5 * time.Second,
			ReadTimeout: patient, WriteTimeout: patient, HandshakeTimeout: patient,
		})
		client.OnConnected(func(centrifuge.ConnectedEvent) { all.change(1, "all", 0) })
		client.OnConnecting(func(e centrifuge.ConnectingEvent) {
			// 0: it was told to connect by this program.
			if e.Code != 0 {
				all.change(-1, "gone", e.Code)
			}
		})
		client.OnDisconnected(func(e centrifuge.DisconnectedEvent) { all.change(0, "ended", e.Code) })
		if err := client.Connect(); err != nil {
			panic(err)
		}
	}
	select {}
}
