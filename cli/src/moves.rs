//! `tenantry move`: moves as operators see them and what they ask of them, through the catalog. The rebalancer makes them.

mod args;
mod progress;
mod view;
mod waits;

use std::time::Duration;

use tenantry_schema::catalog::moves::{Move, MoveCommand as Asked, MoveFilter, MoveId};
use tenantry_schema::catalog::{Catalog, RebalanceId};

use args::{AskArgs, ListArgs, ShowArgs, Until};
pub(crate) use args::{HowArgs, IsolateArgs, MoveCommand, RelocateArgs, WaitArgs};
pub(crate) use progress::{Aim, follow};
use view::{EventView, find};
pub(crate) use view::{Listed, Names};

use crate::catalog::{actor, open};
use crate::config::Sources;
use crate::exit::{Exit, Failure};
use crate::output::Printer;

/// Between two looks at what became of a command.
const REFUSAL_POLL: Duration = Duration::from_millis(250);

/// Runs `tenantry move …`.
pub(crate) async fn run(
    command: MoveCommand,
    sources: &Sources,
    printer: Printer,
) -> Result<Exit, Failure> {
    let catalog = open(sources).await?;
    match command {
        MoveCommand::List(args) => list(&catalog, &args, printer).await?,
        MoveCommand::Show(args) => show(&catalog, &args, printer).await?,
        MoveCommand::Watch(args) => {
            let found = find(&catalog, &args.id).await?;
            let aim = match args.until {
                Until::Arrived => Aim::Arrived,
                Until::Over => Aim::Over,
            };
            let ended = follow(&catalog, found.id, aim, args.timeout.0, printer).await?;
            print(&catalog, &ended, printer).await?;
        }
        MoveCommand::Switch(args) => ask(&catalog, &args, Asked::Switch, printer).await?,
        MoveCommand::Reverse(args) => ask(&catalog, &args, Asked::Reverse, printer).await?,
        MoveCommand::Complete(args) => ask(&catalog, &args, Asked::Complete, printer).await?,
        MoveCommand::Cancel(args) => ask(&catalog, &args, Asked::Cancel, printer).await?,
        MoveCommand::Pause(args) => ask(&catalog, &args, Asked::Pause, printer).await?,
        MoveCommand::Resume(args) => ask(&catalog, &args, Asked::Resume, printer).await?,
    }
    Ok(Exit::Ok)
}

async fn list(catalog: &Catalog, args: &ListArgs, printer: Printer) -> Result<(), Failure> {
    let tenant = match &args.tenant {
        Some(name) => Some(catalog.tenant(name).await?.id),
        None => None,
    };
    let batch = args.rebalance.as_deref().map(|text| {
        text.parse::<RebalanceId>()
            .map_err(|error| Failure::usage(format!("`{text}`: {error}")))
    });
    let filter = MoveFilter {
        live: args.live,
        tenant,
        batch: batch.transpose()?.map(|id| id.0),
        before: None,
        limit: args.limit,
    };
    let moves = catalog.moves(&filter).await?;
    let live = catalog.moves(&MoveFilter::live()).await?;
    let mut names = Names::read(catalog).await?;
    let mut views = Vec::new();
    for of in &moves {
        views.push(Listed(names.view(catalog, of, &live).await?));
    }
    printer.list(&views)
}

async fn show(catalog: &Catalog, args: &ShowArgs, printer: Printer) -> Result<(), Failure> {
    let found = find(catalog, &args.id).await?;
    if !args.events {
        return print(catalog, &found, printer).await;
    }
    let events = catalog.move_events(found.id, 0).await?;
    printer.list(&events.into_iter().map(EventView::from).collect::<Vec<_>>())
}

async fn ask(
    catalog: &Catalog,
    args: &AskArgs,
    command: Asked,
    printer: Printer,
) -> Result<(), Failure> {
    let found = find(catalog, &args.id).await?;
    let asked = catalog.ask_move(found.id, command, &actor()).await?;
    if args.wait.wait {
        let aim = match command {
            Asked::Switch => Aim::Arrived,
            Asked::Reverse => Aim::Back,
            Asked::Complete => Aim::Over,
            Asked::Cancel => Aim::Undone,
            Asked::Pause => Aim::Paused,
            Asked::Resume => Aim::Resumed,
        };
        let waiting = follow(catalog, found.id, aim, args.wait.timeout.0, printer);
        tokio::select! {
            ended = waiting => drop(ended?),
            refused = refusal(catalog, found.id, asked.id) => return Err(refused),
        }
    }
    print(catalog, &catalog.move_by_id(found.id).await?, printer).await
}

/// Waits for the rebalancer's refusal of a command; for ever, if it is followed.
async fn refusal(catalog: &Catalog, id: MoveId, command: i64) -> Failure {
    loop {
        match catalog.move_commands(id).await {
            Err(error) => return error.into(),
            Ok(commands) => {
                let asked = commands.into_iter().find(|asked| asked.id == command);
                if let Some(why) = asked.and_then(|asked| asked.refusal) {
                    return Failure::precondition(format!("the move does not follow: {why}"));
                }
            }
        }
        tokio::time::sleep(REFUSAL_POLL).await;
    }
}

/// Prints one move.
pub(crate) async fn print(catalog: &Catalog, of: &Move, printer: Printer) -> Result<(), Failure> {
    let live = catalog.moves(&MoveFilter::live()).await?;
    let view = Names::read(catalog).await?.view(catalog, of, &live).await?;
    printer.one(&view)
}
