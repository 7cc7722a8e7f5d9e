// A Go client: signs in, subscribes, publishes, and hears what it published. Arguments: WS-URL TOKEN; the authorities come
// from SSL_CERT_FILE.
package main

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/gorilla/websocket"
)

type message struct {
	Type string `json:"type"`
	ID   any    `json:"id,omitempty"`
	Data any    `json:"data,omitempty"`
}

func fail(problem error) {
	fmt.Fprintln(os.Stderr, problem)
	os.Exit(1)
}

func main() {
	if len(os.Args) < 3 {
		fmt.Println(runtime.Version())
		return
	}
	socket, _, problem := websocket.DefaultDialer.Dial(os.Args[1], nil)
	if problem != nil {
		fail(problem)
	}
	defer socket.Close()
	socket.SetReadDeadline(time.Now().Add(20 * time.Second))
	say := func(kind string, id int, data any) {
		if problem := socket.WriteJSON(message{kind, id, data}); problem != nil {
			fail(problem)
		}
	}
	say("auth", 1, map[string]string{"token": os.Args[2]})
	for {
		var received message
		if problem := socket.ReadJSON(&received); problem != nil {
			fail(problem)
		}
		switch {
		case received.Type == "auth_success":
			say("subscribe", 2, map[string]any{"channels": []string{"live:go"}})
		case received.ID == 2.0:
			say("publish", 3, map[string]string{"channel": "live:go", "data": "by Go"})
		case received.Type == "message" && received.Data == "by Go":
			return
		case received.Type == "error" || received.Type == "auth_failed":
			fail(fmt.Errorf("%v", received))
		}
	}
}
