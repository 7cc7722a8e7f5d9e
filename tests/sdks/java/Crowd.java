// Many clients of centrifuge-java in one process: they say when each of them is told to go, and when all are back.
//
//     Crowd ADDRESS TOKEN COUNT     on each line {"what", "code", "at"}: ms since the beginning

import io.github.centrifugal.centrifuge.*;

import java.util.ArrayList;
import java.util.List;

public class Crowd extends EventListener {
    private final int count;
    private final long began = System.nanoTime();
    private int connected = 0;

    Crowd(int count) {
        this.count = count;
    }

    /** Counts those that are connected, and says a line: `all` where all are. */
    private synchronized void change(int by, String what, int code) {
        connected += by;
        if (by > 0 && connected < count) {
            return;
        }
        double at = (System.nanoTime() - began) / 1e6;
        System.out.println("{\"what\":\"" + what + "\",\"code\":" + code + ",\"at\":" + at + "}");
    }

    @Override
    public void onConnected(Client client, ConnectedEvent event) {
        change(1, "all", 0);
    }

    @Override
    public void onConnecting(Client client, ConnectingEvent event) {
        // 0: it was told to connect by this program.
        if (event.getCode() != 0) {
            change(-1, "gone", event.getCode());
        }
    }

    @Override
    public void onDisconnected(Client client, DisconnectedEvent event) {
        change(0, "ended", event.getCode());
    }

    public static void main(String[] args) throws Exception {
        int count = Integer.parseInt(args[2]);
        Crowd crowd = new Crowd(count);
        Options options = new Options();
        options.setToken(args[1]);
        // What is waited for are the clients, not a machine that is busy with other tests.
        options.setTimeout(60_000);
        options.setMaxReconnectDelay(5_000);
        List<Client> clients = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            Client client = new Client(args[0], options, crowd);
            clients.add(client);
            client.connect();
        }
        Thread.currentThread().join();
    }
}
